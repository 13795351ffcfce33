package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const faultHelp = `Break the frame's networks. Networks are management, ic3 and ic6; ports bear the
names of bays, and: host (this machine), ic3 and ic6 (the link between the two).

  fault loss NETWORK[/PORT] PERCENT       lose frames at random
  fault duplicate NETWORK[/PORT] PERCENT  send frames from a station twice
  fault delay NETWORK[/PORT] TIME [JITTER] hold frames back, in order (20ms)
  fault cut NETWORK PORT[,PORT...] PORT[,PORT...]
                                          cut two groups of ports apart
  fault oneway NETWORK FROM TO            drop what goes one way; * is any port
  fault portdown NETWORK PORT             a port out of service, silently
  fault portup NETWORK PORT               and back
  fault heal [NETWORK]                    end all faults`

func faultCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "fault KIND ...",
		Short:   "Break the networks: loss, duplicate, delay, cut, oneway, portdown, portup, heal",
		Long:    faultHelp,
		Example: "  vframe fault loss ic3 10\n  vframe fault oneway management appliance1 '*'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := parseFault(args)
			if err != nil {
				return err
			}
			return call(c.Context(), *dir, http.MethodPost, "/fault", r, nil)
		},
	}
}

func parseFault(args []string) (r faultRequest, err error) {
	kind, args := args[0], args[1:]
	r.Kind = kind
	wants := map[string][2]int{ // arguments, from and to
		"loss": {2, 2}, "duplicate": {2, 2}, "delay": {2, 3}, "cut": {3, 3}, "oneway": {3, 3},
		"portdown": {2, 2}, "portup": {2, 2}, "heal": {0, 1},
	}
	n, ok := wants[kind]
	if !ok || len(args) < n[0] || len(args) > n[1] {
		return r, fmt.Errorf("fault %s: wrong words; they are:\n%s", strings.Join(append([]string{kind}, args...), " "), faultHelp)
	}
	if len(args) == 0 {
		return r, nil
	}
	r.Network = args[0]
	switch kind {
	case "loss", "duplicate", "delay":
		r.Network, r.Port, _ = strings.Cut(args[0], "/")
		if kind == "delay" {
			err := parseDelay(&r, args[1:])
			return r, err
		}
		percent, err := strconv.ParseFloat(strings.TrimSuffix(args[1], "%"), 64)
		if err != nil || percent < 0 || percent > 100 {
			return r, fmt.Errorf("fault %s: %q: want a percentage, 0 to 100", kind, args[1])
		}
		r.Value = percent / 100
	case "cut":
		r.Groups = [][]string{strings.Split(args[1], ","), strings.Split(args[2], ",")}
	case "oneway":
		r.Port, r.To = args[1], args[2]
	case "portdown", "portup":
		r.Port = args[1]
	}
	return r, nil
}

func parseDelay(r *faultRequest, args []string) (err error) {
	if r.Delay, err = time.ParseDuration(args[0]); err != nil {
		return fmt.Errorf("fault delay: %w; write 20ms", err)
	}
	if len(args) == 2 {
		if r.Jitter, err = time.ParseDuration(args[1]); err != nil {
			return fmt.Errorf("fault delay: jitter: %w; write 20ms", err)
		}
	}
	return nil
}
