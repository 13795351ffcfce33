package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"baystream/qemu"

	"github.com/spf13/cobra"
)

// A fault is something that can be broken by hand. Its arguments are words; do
// runs in the process that holds the frame.
type fault struct {
	name    string
	args    string
	least   int // words of args
	most    int
	help    string
	example string
	do      func(ctx context.Context, f *qemu.Frame, args []string) error
}

// faults is the list that help prints.
func faults() []fault {
	return []fault{
		{"loss", "NETWORK[/PORT] PERCENT", 2, 2, "lose frames at random", "loss ic3 10", tune},
		{"duplicate", "NETWORK[/PORT] PERCENT", 2, 2, "send frames from a station twice", "duplicate ic3/appliance1 1", tune},
		{"delay", "NETWORK[/PORT] TIME [JITTER]", 2, 3, "hold frames back, in order", "delay ic6 20ms 5ms", tune},
		{"reorder", "NETWORK[/PORT] PERCENT", 2, 2, "hold frames back at random, so that others overtake them", "reorder management 5", tune},
		{"cut", "NETWORK PORT[,PORT...] PORT[,PORT...]", 3, 3, "cut two groups of ports apart", "cut management appliance1 frame2-appliance1", cut},
		{"oneway", "NETWORK FROM TO", 3, 3, "drop what goes one way; * is any port", "oneway management appliance1 '*'", oneWay},
		{"sever", "mirror|management|all BAY BAY", 3, 3, "two modules do not hear each other; others hear both", "sever mirror appliance1 frame2-appliance1", sever(true)},
		{"severone", "mirror|management|all FROM TO", 3, 3, "one way only", "severone all appliance1 frame2-appliance1", sever(false)},
		{"mend", "", 0, 0, "ends sever and severone", "mend", mend},
		{"silent", "NETWORK[/PORT]", 1, 1, "an interconnect module, or one port, forwards and sends nothing; carriers stay up", "silent ic3", setSilent(true)},
		{"speak", "NETWORK[/PORT]", 1, 1, "ends silent", "speak ic3", setSilent(false)},
		{"portdown", "NETWORK BAY", 2, 2, "take the carrier of a bay's port away", "portdown ic3 appliance1", carrier(false)},
		{"portup", "NETWORK BAY", 2, 2, "and give it back", "portup ic3 appliance1", carrier(true)},
		{"hang", "BAY", 1, 1, "stop a module's CPUs", "hang appliance1", hang},
		{"resume", "BAY", 1, 1, "ends hang", "resume appliance1", resume},
		{"bmc", "BAY dead|alive", 2, 2, "a BMC answers its module no more", "bmc appliance1 dead", setBMC},
		{"sensor", "BAY NAME VALUE", 3, 3, "make a sensor read a value", "sensor appliance1 'Inlet Temp' 45", setSensor},
		{"disk", "BAY DISK WHAT [...]", 3, 5, diskHelp, "disk appliance1 disk0 errors", diskFault},
		{"heal", "[NETWORK]", 0, 1, "end all faults; bit rot stays", "heal", heal},
	}
}

const diskHelp = `break a disk that the rig serves (vframe up -serve-disks); disk0 is the first. WHAT is
        readerrors|writeerrors|errors [FROM TO]  requests fail (in a range of bytes)
        full           writes fail for want of space
        stall          nothing is answered
        delay TIME     each request takes longer
        throttle N     so many requests a second
        rot [N]        flip N bits (1) of what is there
        rot @OFFSET    flip a bit of that byte
        heal           end it; what rotted stays`

func faultHelp() string {
	var b strings.Builder
	b.WriteString("Break the frame. Networks: management, ic3, ic6, framelink (frame2-framelink...), ring; ports bear\nthe names of bays, and: host (this machine), manager (on a frame link), ic3 and ic6 (the link between the two).\n\n")
	for _, f := range faults() {
		fmt.Fprintf(&b, "  fault %s %s\n        %s\n", f.name, f.args, f.help)
	}
	return b.String()
}

func faultExamples() string {
	var lines []string
	for _, f := range faults() {
		lines = append(lines, "  vframe fault "+f.example)
	}
	return strings.Join(lines, "\n")
}

func faultCommand(dir *string) *cobra.Command {
	var names []string
	for _, f := range faults() {
		names = append(names, f.name)
	}
	c := &cobra.Command{
		Use:       "fault KIND ...",
		Short:     "Break it: " + strings.Join(names, ", "),
		Long:      faultHelp(),
		Example:   faultExamples(),
		ValidArgs: names,
		Args:      cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := findFault(args); err != nil {
				return err
			}
			return call(c.Context(), *dir, http.MethodPost, "/fault", faultRequest{args}, nil)
		},
	}
	return c
}

// findFault returns the fault that words name.
func findFault(words []string) (fault, error) {
	for _, f := range faults() {
		if f.name != words[0] {
			continue
		}
		if n := len(words) - 1; n < f.least || n > f.most {
			return fault{}, fmt.Errorf("fault %s: want fault %s %s, as in: vframe fault %s", strings.Join(words, " "), f.name, f.args, f.example)
		}
		return f, nil
	}
	return fault{}, fmt.Errorf("fault %s: unknown; they are:\n%s", words[0], faultHelp())
}

func (c *control) fault(ctx context.Context, r faultRequest) error {
	if len(r.Words) == 0 {
		return fmt.Errorf("fault: which? They are:\n%s", faultHelp())
	}
	f, err := findFault(r.Words)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(10*time.Second))
	defer cancel()
	if err := f.do(ctx, c.frame, r.Words); err != nil {
		return fmt.Errorf("fault %s: %w", strings.Join(r.Words, " "), err)
	}
	return nil
}

// place is a whole network, or one port of it.
type place interface {
	Fault() qemu.Fault
	SetFault(qemu.Fault) error
	SetSilent(bool)
}

func findPlace(f *qemu.Frame, word string) (place, error) {
	network, port, one := strings.Cut(word, "/")
	n, err := f.Network(network)
	if err != nil || !one {
		return n, err
	}
	return n.Port(port)
}

// tune changes one value of a network's fault and leaves the others.
func tune(_ context.Context, f *qemu.Frame, words []string) error {
	at, err := findPlace(f, words[1])
	if err != nil {
		return err
	}
	now := at.Fault()
	if err := change(&now, words[0], words[2:]); err != nil {
		return err
	}
	return at.SetFault(now)
}

func change(f *qemu.Fault, kind string, args []string) (err error) {
	switch kind {
	case "loss":
		f.Loss, err = percentage(args[0])
	case "duplicate":
		f.Duplicate, err = percentage(args[0])
	case "reorder":
		f.Reorder, err = percentage(args[0])
	case "delay":
		f.Jitter = 0
		if f.Delay, err = duration(args[0]); err == nil && len(args) > 1 {
			f.Jitter, err = duration(args[1])
		}
	}
	return err
}

func percentage(word string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(word, "%"), 64)
	if err != nil || p < 0 || p > 100 {
		return 0, fmt.Errorf("%q: want a percentage, 0 to 100", word)
	}
	return p / 100, nil
}

func duration(word string) (time.Duration, error) {
	d, err := time.ParseDuration(word)
	if err != nil {
		return 0, fmt.Errorf("%w; write 20ms", err)
	}
	return d, nil
}

func cut(_ context.Context, f *qemu.Frame, words []string) error {
	n, err := f.Network(words[1])
	if err != nil {
		return err
	}
	return n.Partition(strings.Split(words[2], ","), strings.Split(words[3], ","))
}

func oneWay(_ context.Context, f *qemu.Frame, words []string) error {
	n, err := f.Network(words[1])
	if err != nil {
		return err
	}
	star := func(name string) string { return strings.TrimPrefix(name, "*") }
	return n.Cut(star(words[2]), star(words[3]))
}

func sever(bothWays bool) func(context.Context, *qemu.Frame, []string) error {
	return func(_ context.Context, f *qemu.Frame, words []string) error {
		a, err := f.Bay(words[2])
		if err != nil {
			return err
		}
		b, err := f.Bay(words[3])
		if err != nil {
			return err
		}
		if bothWays {
			return f.CutLink(words[1], a, b)
		}
		return f.CutOneWay(words[1], a, b)
	}
}

func mend(_ context.Context, f *qemu.Frame, _ []string) error {
	f.MendLinks()
	return nil
}

func setSilent(silent bool) func(context.Context, *qemu.Frame, []string) error {
	return func(_ context.Context, f *qemu.Frame, words []string) error {
		at, err := findPlace(f, words[1])
		if err != nil {
			return err
		}
		at.SetSilent(silent)
		return nil
	}
}

func carrier(up bool) func(context.Context, *qemu.Frame, []string) error {
	return func(ctx context.Context, f *qemu.Frame, words []string) error {
		n, err := f.Network(words[1])
		if err != nil {
			return err
		}
		return f.SetCarrier(ctx, n, words[2], up)
	}
}

func hang(ctx context.Context, f *qemu.Frame, words []string) error {
	b, err := f.Bay(words[1])
	if err != nil {
		return err
	}
	return b.Pause(ctx)
}

func resume(ctx context.Context, f *qemu.Frame, words []string) error {
	b, err := f.Bay(words[1])
	if err != nil {
		return err
	}
	return b.Resume(ctx)
}

func setBMC(_ context.Context, f *qemu.Frame, words []string) error {
	b, err := f.Bay(words[1])
	if err != nil {
		return err
	}
	if words[2] != "dead" && words[2] != "alive" {
		return fmt.Errorf("%q: want dead or alive", words[2])
	}
	b.SetBMC(words[2] == "alive")
	return nil
}

func setSensor(_ context.Context, f *qemu.Frame, words []string) error {
	b, err := f.Bay(words[1])
	if err != nil {
		return err
	}
	value, err := strconv.ParseFloat(words[3], 64)
	if err != nil {
		return fmt.Errorf("%q: want a number, in the sensor's unit", words[3])
	}
	return b.BMC().SetSensor(words[2], value)
}

func heal(ctx context.Context, f *qemu.Frame, words []string) error {
	if len(words) == 1 {
		return f.Heal(ctx)
	}
	n, err := f.Network(words[1])
	if err != nil {
		return err
	}
	n.Heal()
	return nil
}
