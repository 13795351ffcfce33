package manager

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"baystream/qemu/bmc"
)

func link(path string) object { return object{"@odata.id": root + path} }

func links(paths []string) []object {
	out := []object{}
	for _, p := range paths {
		out = append(out, link(p))
	}
	return out
}

func collection(path, kind, name string, members []string) object {
	return object{"@odata.id": root + path, "@odata.type": "#" + kind + "." + kind, "Name": name,
		"Members": links(members), "Members@odata.count": len(members)}
}

// resource begins a resource: the last part of its path is its id.
func resource(path, kind, name string, more object) object {
	o := object{"@odata.id": root + path, "@odata.type": "#" + kind, "Id": path[strings.LastIndex(path, "/")+1:], "Name": name}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func powerState(on bool) string {
	if on {
		return "On"
	}
	return "Off"
}

func (m *Manager) getRoot(w http.ResponseWriter, _ *http.Request) {
	send(w, object{"@odata.id": root + "/", "@odata.type": "#ServiceRoot.v1_9_0.ServiceRoot",
		"Id": "RootService", "Name": "Frame manager of " + m.cfg.Frame, "RedfishVersion": "1.15.0", "Vendor": "Baystream", "Product": "Virtual frame",
		"Chassis": link("/Chassis"), "Systems": link("/Systems"), "Managers": link("/Managers"),
		"SessionService": link("/SessionService"), "EventService": link("/EventService"),
		"Links": object{"Sessions": link("/SessionService/Sessions")}})
}

// chassisPaths are the frame's and its bays'.
func (m *Manager) chassisPaths() []string {
	out := []string{"/Chassis/" + m.cfg.Frame}
	for _, b := range m.all() {
		out = append(out, "/Chassis/"+m.chassisID(b))
	}
	return out
}

func (m *Manager) systemPaths() (out []string) {
	for _, b := range m.all() {
		if b.Module != nil {
			out = append(out, "/Systems/"+b.Serial)
		}
	}
	return out
}

func (m *Manager) getChassisCollection(w http.ResponseWriter, r *http.Request) {
	send(w, collection("/Chassis", "ChassisCollection", "Frames and bays", m.withPeers(r, "/Chassis", m.chassisPaths())))
}

func (m *Manager) getSystems(w http.ResponseWriter, r *http.Request) {
	send(w, collection("/Systems", "ComputerSystemCollection", "Modules", m.withPeers(r, "/Systems", m.systemPaths())))
}

func (m *Manager) getManagers(w http.ResponseWriter, r *http.Request) {
	send(w, collection("/Managers", "ManagerCollection", "Frame managers", m.withPeers(r, "/Managers", []string{"/Managers/" + m.cfg.Frame})))
}

func (m *Manager) getChassis(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if id == m.cfg.Frame {
		send(w, m.enclosure())
		return
	}
	b, ok := m.bay(id)
	if !ok {
		missing(w, r)
		return
	}
	send(w, m.chassis(b))
}

func (m *Manager) enclosure() object {
	frames := []string{}
	for _, p := range m.linked() {
		frames = append(frames, "/Chassis/"+p.Frame)
	}
	return resource("/Chassis/"+m.cfg.Frame, "Chassis.v1_17_0.Chassis", "Frame "+m.cfg.Frame, object{
		"ChassisType": "Enclosure", "Manufacturer": "Baystream", "Model": "Virtual frame", "SerialNumber": m.cfg.Frame,
		"PowerState": "On", "Status": object{"State": "Enabled", "Health": "OK"},
		"Links": object{
			"Contains": links(m.chassisPaths()[1:]), "ManagedBy": links([]string{"/Managers/" + m.cfg.Frame}),
			"ComputerSystems": links(m.systemPaths()),
			"Oem":             object{"Baystream": object{"LinkedFrames": links(frames)}},
		}})
}

func (m *Manager) chassis(b Bay) object {
	path := "/Chassis/" + m.chassisID(b)
	o := resource(path, "Chassis.v1_17_0.Chassis", b.Location, object{
		"ChassisType": "Blade", "Manufacturer": "Baystream", "Model": b.Model, "SerialNumber": b.Serial,
		"Location": object{"PartLocation": object{"ServiceLabel": b.Location, "LocationType": "Bay", "LocationOrdinalValue": b.Number},
			"Placement": object{"Rack": m.cfg.Frame}},
		"PowerState": "On", "Status": object{"State": "Enabled", "Health": "OK"}})
	lead := object{"ContainedBy": link("/Chassis/" + m.cfg.Frame), "ManagedBy": links([]string{"/Managers/" + m.cfg.Frame})}
	switch {
	case b.Serial == "":
		o["Status"] = object{"State": "Absent"}
		o["PowerState"] = "Off"
	case b.Module == nil:
		o["ChassisType"] = "Module"
	default:
		on := b.Module.On()
		o["PowerState"], o["UUID"] = powerState(on), b.UUID
		o["Status"] = object{"State": enabled(on), "Health": health(b.Module.Readings())}
		o["Sensors"] = link(path + "/Sensors")
		lead["ComputerSystems"] = links([]string{"/Systems/" + b.Serial})
	}
	o["Links"] = lead
	return o
}

func enabled(on bool) string {
	if on {
		return "Enabled"
	}
	return "StandbyOffline"
}

// health is that of the worst sensor.
func health(readings []bmc.Reading) string {
	worst := "OK"
	for _, r := range readings {
		switch h := healths[r.State]; {
		case h == "Critical":
			return h
		case h != "OK":
			worst = h
		}
	}
	return worst
}

var healths = map[string]string{"ok": "OK", "warning": "Warning", "critical": "Critical", "fatal": "Critical"}

func (m *Manager) getSystem(w http.ResponseWriter, r *http.Request) {
	b, ok := m.system(r.PathValue("id"))
	if !ok {
		missing(w, r)
		return
	}
	path := "/Systems/" + b.Serial
	on := b.Module.On()
	send(w, resource(path, "ComputerSystem.v1_16_0.ComputerSystem", b.Location, object{
		"SystemType": "Physical", "Manufacturer": "Baystream", "Model": b.Model, "SerialNumber": b.Serial, "UUID": b.UUID,
		"PowerState": powerState(on), "Status": object{"State": enabled(on), "Health": health(b.Module.Readings())},
		"Links": object{"Chassis": links([]string{"/Chassis/" + m.chassisID(b)}), "ManagedBy": links([]string{"/Managers/" + m.cfg.Frame})},
		"Oem":   object{"Baystream": object{"MACAddresses": b.MACs}},
		"Actions": object{"#ComputerSystem.Reset": object{"target": root + path + "/Actions/ComputerSystem.Reset",
			"ResetType@Redfish.AllowableValues": resetTypes}}}))
}

var resetTypes = []string{"On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "PushPowerButton", "Nmi"}

// postReset answers when it has happened; of GracefulShutdown, when the module
// was asked.
func (m *Manager) postReset(w http.ResponseWriter, r *http.Request) {
	b, ok := m.system(r.PathValue("id"))
	if !ok {
		missing(w, r)
		return
	}
	var in struct{ ResetType string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "MalformedJSON", "The request body is not the JSON of a reset: "+err.Error())
		return
	}
	do := map[string]func() error{
		"": b.Module.Reset, "On": b.Module.PowerOn, "ForceOff": b.Module.PowerOff, "ForceRestart": b.Module.Reset, "PowerCycle": b.Module.PowerCycle,
		"GracefulShutdown": b.Module.PowerButton, "PushPowerButton": b.Module.PowerButton, "Nmi": b.Module.Interrupt,
	}[in.ResetType]
	if do == nil {
		fail(w, http.StatusBadRequest, "ActionParameterNotSupported", "ResetType "+in.ResetType+" is not one of "+strings.Join(resetTypes, ", ")+".")
		return
	}
	if !b.Module.On() && in.ResetType != "On" && in.ResetType != "ForceOff" {
		fail(w, http.StatusConflict, "ActionNotSupported", b.Location+" has no power: only On is possible.")
		return
	}
	m.cfg.Log.Info("manager: reset", "frame", m.cfg.Frame, "bay", b.Location, "type", in.ResetType)
	if err := do(); err != nil {
		fail(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (m *Manager) getManager(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("id") != m.cfg.Frame {
		missing(w, r)
		return
	}
	send(w, resource("/Managers/"+m.cfg.Frame, "Manager.v1_11_0.Manager", "Frame manager", object{
		"ManagerType": "EnclosureManager", "PowerState": "On", "DateTime": time.Now().UTC().Format(time.RFC3339),
		"Status": object{"State": "Enabled", "Health": "OK"},
		"Links": object{"ManagerForChassis": links(m.chassisPaths()), "ManagerForServers": links(m.systemPaths()),
			"ManagerInChassis": link("/Chassis/" + m.cfg.Frame)}}))
}

func sensorID(name string) string { return strings.ReplaceAll(name, " ", "") }

func (m *Manager) getSensors(w http.ResponseWriter, r *http.Request) {
	b, ok := m.bay(r.PathValue("id"))
	if !ok || b.Module == nil {
		missing(w, r)
		return
	}
	path := "/Chassis/" + m.chassisID(b) + "/Sensors"
	var members []string
	for _, s := range b.Module.Readings() {
		members = append(members, path+"/"+sensorID(s.Name))
	}
	send(w, collection(path, "SensorCollection", "Sensors", members))
}

func (m *Manager) getSensor(w http.ResponseWriter, r *http.Request) {
	b, ok := m.bay(r.PathValue("id"))
	if !ok || b.Module == nil {
		missing(w, r)
		return
	}
	for _, s := range b.Module.Readings() {
		if sensorID(s.Name) != r.PathValue("sensor") {
			continue
		}
		limits := object{}
		for name, v := range map[string]float64{"UpperCaution": s.UpperWarning, "UpperCritical": s.UpperCritical, "UpperFatal": s.UpperFatal,
			"LowerCaution": s.LowerWarning, "LowerCritical": s.LowerCritical, "LowerFatal": s.LowerFatal} {
			if v != 0 {
				limits[name] = object{"Reading": v}
			}
		}
		send(w, resource("/Chassis/"+m.chassisID(b)+"/Sensors/"+sensorID(s.Name), "Sensor.v1_5_0.Sensor", s.Name, object{
			"Reading": s.Value, "ReadingUnits": s.Kind.Unit, "ReadingType": readingTypes[s.Kind.Unit], "Thresholds": limits,
			"Status": object{"State": "Enabled", "Health": healths[s.State]}}))
		return
	}
	missing(w, r)
}

var readingTypes = map[string]string{"Cel": "Temperature", "W": "Power", "RPM": "Rotational"}
