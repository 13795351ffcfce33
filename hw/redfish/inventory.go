package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Power is a bay's or system's power state (DSP2046, Resource.PowerState).
type Power string

// The power states.
const (
	On          Power = "On"
	Off         Power = "Off"
	PoweringOn  Power = "PoweringOn"
	PoweringOff Power = "PoweringOff"
)

// Inventory is what a manager knows of its frame and of linked ones.
type Inventory struct {
	Name    string  `json:"name"` // of the manager
	Vendor  string  `json:"vendor,omitempty"`
	Product string  `json:"product,omitempty"`
	Frames  []Frame `json:"frames"`
}

// Frame is an enclosure.
type Frame struct {
	Serial string `json:"serial"`
	Model  string `json:"model,omitempty"`
	Health string `json:"health,omitempty"` // OK, Warning, Critical
	Bays   []Bay  `json:"bays"`
	// Fault says why nothing is known of a linked frame.
	Fault string `json:"fault,omitempty"`

	path string
}

// Bay is a place in a frame.
type Bay struct {
	Location string `json:"bay"` // "device bay 3"
	Present  bool   `json:"present"`
	Model    string `json:"model,omitempty"`
	Serial   string `json:"serial,omitempty"`
	UUID     string `json:"uuid,omitempty"` // of the computer, lower case
	Power    Power  `json:"power,omitempty"`
	Health   string `json:"health,omitempty"`
	// System is the resource of the computer in the bay, for Reset; "" if it
	// holds none.
	System string `json:"system,omitempty"`
	Fault  string `json:"fault,omitempty"` // why nothing more is known
}

// BayOf returns the bay that holds the computer with a UUID or, if it has none,
// a serial number.
func (inv Inventory) BayOf(uuid, serial string) (Bay, bool) {
	for _, by := range []func(Bay) bool{
		func(b Bay) bool { return uuid != "" && strings.EqualFold(b.UUID, uuid) },
		func(b Bay) bool { return serial != "" && b.Serial == serial },
	} {
		for _, f := range inv.Frames {
			for _, b := range f.Bays {
				if by(b) {
					return b, true
				}
			}
		}
	}
	return Bay{}, false
}

// reference is a link to another resource.
type reference struct {
	ID string `json:"@odata.id"`
}

type collection struct {
	Members []reference
	Next    string `json:"Members@odata.nextLink"`
}

type status struct {
	State, Health string
}

type chassis struct {
	ID           string `json:"Id"`
	Name         string
	ChassisType  string
	SerialNumber string
	Model        string
	UUID         string
	PowerState   Power
	Status       status
	Location     struct {
		PartLocation struct{ ServiceLabel string }
	}
	Links struct {
		ContainedBy     reference
		ComputerSystems []reference
	}
}

type system struct {
	UUID, SerialNumber, Model string
	PowerState                Power
	Status                    status
}

// Inventory reads the frame, its bays and those of linked frames. A resource
// that cannot be read is a fault noted where it belongs; only a manager that
// does not answer at all is an error.
func (c *Client) Inventory(ctx context.Context) (Inventory, error) {
	var root struct {
		Name, Vendor, Product string
		Chassis               reference
	}
	if err := c.get(ctx, "/redfish/v1/", &root); err != nil {
		return Inventory{}, err
	}
	inv := Inventory{Name: root.Name, Vendor: root.Vendor, Product: root.Product}
	paths, err := c.members(ctx, root.Chassis.ID)
	if err != nil {
		return inv, err
	}
	bays := map[string][]Bay{} // by the path of what contains them
	for _, path := range paths {
		var ch chassis
		err := c.get(ctx, path, &ch)
		var refused *Error
		switch {
		case errors.As(err, &refused): // a linked frame whose manager is away
			inv.Frames = append(inv.Frames, Frame{Serial: path[strings.LastIndexByte(path, '/')+1:], Bays: []Bay{}, Fault: err.Error(), path: path})
		case err != nil:
			return inv, err
		case ch.ChassisType == "Enclosure":
			inv.Frames = append(inv.Frames, Frame{Serial: ch.SerialNumber, Model: ch.Model, Health: ch.Status.Health, Bays: []Bay{}, path: path})
		default:
			in := ch.Links.ContainedBy.ID
			bays[in] = append(bays[in], c.bay(ctx, ch))
		}
	}
	for i, f := range inv.Frames {
		inv.Frames[i].Bays = append(inv.Frames[i].Bays, bays[f.path]...)
	}
	return inv, nil
}

// bay describes the bay of a chassis, with the computer in it.
func (c *Client) bay(ctx context.Context, ch chassis) Bay {
	b := Bay{Location: ch.Location.PartLocation.ServiceLabel, Present: ch.Status.State != "Absent", Model: ch.Model,
		Serial: ch.SerialNumber, UUID: strings.ToLower(ch.UUID), Power: ch.PowerState, Health: ch.Status.Health}
	if b.Location == "" {
		b.Location = ch.Name
	}
	if !b.Present || len(ch.Links.ComputerSystems) == 0 {
		return b
	}
	b.System = ch.Links.ComputerSystems[0].ID
	var s system
	if err := c.get(ctx, b.System, &s); err != nil {
		b.Fault = err.Error()
		return b
	}
	b.UUID, b.Serial, b.Power = strings.ToLower(s.UUID), s.SerialNumber, s.PowerState
	return b
}

// members lists a collection, which may come in pages.
func (c *Client) members(ctx context.Context, path string) ([]string, error) {
	var out []string
	for seen := map[string]bool{}; path != "" && !seen[path]; {
		seen[path] = true
		var page collection
		if err := c.get(ctx, path, &page); err != nil {
			return out, err
		}
		for _, m := range page.Members {
			if len(out) == maxMembers {
				return out, fmt.Errorf("frame manager: %s: has more than %d members", path, maxMembers)
			}
			out = append(out, m.ID)
		}
		path = page.Next
	}
	return out, nil
}

// ResetType is what Reset does (DSP2046, Resource.ResetType).
type ResetType string

// The kinds of resets that a frame's manager must offer.
const (
	PowerOn          ResetType = "On"
	ForceOff         ResetType = "ForceOff"
	GracefulShutdown ResetType = "GracefulShutdown"
	ForceRestart     ResetType = "ForceRestart"
)

// Reset switches the power of a computer, named by its resource (Bay.System).
// After ForceOff without an error the computer has no power.
func (c *Client) Reset(ctx context.Context, systemPath string, t ResetType) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var s struct {
		PowerState Power
		Actions    struct {
			Reset struct {
				Target string `json:"target"`
			} `json:"#ComputerSystem.Reset"`
		}
	}
	if err := c.get(ctx, systemPath, &s); err != nil {
		return err
	}
	if s.Actions.Reset.Target == "" {
		return &Error{Status: http.StatusNotImplemented, Path: systemPath, Message: "the manager offers no reset of this computer"}
	}
	resp, err := c.do(ctx, http.MethodPost, s.Actions.Reset.Target, nil, map[string]ResetType{"ResetType": t})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Power asks for the power state of a computer.
func (c *Client) Power(ctx context.Context, systemPath string) (Power, error) {
	var s system
	err := c.get(ctx, systemPath, &s)
	return s.PowerState, err
}
