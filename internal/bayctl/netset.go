package bayctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

func (a *app) netSetCmd() *cobra.Command {
	change := domain.NetChange{}
	var grace time.Duration
	run := func(cmd *cobra.Command) error {
		change.GraceSeconds = int(grace / time.Second)
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		return a.changeNetwork(cmd.Context(), c, change)
	}
	cmd := &cobra.Command{
		Use:   "set SETTING",
		Short: "Change the management address; it takes itself back unless it can be reached",
		Long: "Change the settings of the management port, such as\n" +
			"  bayctl net set address:192.0.2.10/24,gateway:192.0.2.1\n" +
			"  bayctl net set dhcp\n" +
			"The appliance tries them for a while. When bayctl reaches it at the new address, it confirms the change;\n" +
			"otherwise the old settings return by themselves.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "dhcp" {
				args[0] = ""
			}
			change.Management = &args[0]
			return run(cmd)
		},
	}
	deployment := &cobra.Command{
		Use:   "deployment SETTING",
		Short: "Change the network that servers boot over; it takes itself back unless it works",
		Long: "Change the settings of the deployment network, such as\n" +
			"  bayctl net set deployment vlan:1300,address:198.51.100.2/24,pool:198.51.100.100-198.51.100.199\n" +
			"  bayctl net set deployment frame\n" +
			"The appliance tries them for a while. When its links are as they should be, bayctl confirms the change;\n" +
			"otherwise the old settings return by themselves. What would cut servers off is refused while volumes are served.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change.Deployment = &args[0]
			return run(cmd)
		},
	}
	for _, c := range []*cobra.Command{cmd, deployment} {
		c.Flags().DurationVar(&grace, "grace", time.Minute, "how long the appliance tries the settings before it takes them back")
	}
	cmd.Flags().BoolVar(&change.Unchecked, "unchecked", false, "do not ask first whether another station has the address")
	cmd.AddCommand(deployment)
	return cmd
}

const confirmEvery = time.Second

// changeNetwork puts settings on trial and confirms them over the new address.
func (a *app) changeNetwork(ctx context.Context, c *client, change domain.NetChange) error {
	var trial domain.NetTrial
	if _, err := c.do(ctx, http.MethodPut, "/rest/baystream/net/settings", change, &trial); err != nil {
		return err
	}
	if trial.Anywhere {
		return a.confirmDeployment(ctx, c, trial)
	}
	there, err := c.at(trial.Address)
	if err != nil {
		return fmt.Errorf("the settings are on trial until %s, but cannot be confirmed from here: %w", clock(trial.Until), err)
	}
	fmt.Fprintf(a.errOut, "on trial until %s; trying %s\n", clock(trial.Until), there.base)
	until, err := time.Parse(time.RFC3339, trial.Until)
	if err != nil {
		until = time.Now().Add(time.Duration(change.GraceSeconds) * time.Second)
	}
	tries, stop := context.WithTimeout(ctx, max(time.Until(until), confirmEvery))
	defer stop()
	var settings domain.NetSettings
	for {
		var last error
		if _, last = there.do(tries, http.MethodPost, "/rest/baystream/net/settings/confirm", nil, &settings); last == nil {
			break
		}
		there.http.CloseIdleConnections() // a confirmation counts on a new connection only
		select {
		case <-tries.Done():
			return fmt.Errorf("the appliance was not reached at %s (%w)\n  what to do: nothing; it takes the old settings back at %s", there.base, last, clock(trial.Until))
		case <-time.After(confirmEvery):
		}
	}
	if p, err := readProfile(); err == nil && p.Server == c.base && a.local == nil {
		p.Server = there.base
		if err := writeProfile(p); err != nil {
			return err
		}
	}
	return a.print(settings, func(w io.Writer) { fmt.Fprintf(w, "confirmed: the appliance is at %s\n", there.base) })
}

// confirmDeployment confirms another deployment network once its links are as they
// should be and nobody else has its addresses.
func (a *app) confirmDeployment(ctx context.Context, c *client, trial domain.NetTrial) error {
	fmt.Fprintf(a.errOut, "on trial until %s; waiting for the links\n", clock(trial.Until))
	tries, stop := context.WithCancel(ctx)
	if until, err := time.Parse(time.RFC3339, trial.Until); err == nil {
		tries, stop = context.WithTimeout(ctx, max(time.Until(until), confirmEvery))
	}
	defer stop()
	why := "it has not answered since"
	for {
		select {
		case <-tries.Done():
			return fmt.Errorf("the new deployment network does not work: %s\n  what to do: nothing; the appliance takes the old settings back at %s", why, clock(trial.Until))
		case <-time.After(confirmEvery):
		}
		var now domain.NetReport
		if _, err := c.do(tries, http.MethodGet, "/rest/baystream/net", nil, &now); err != nil {
			why = err.Error()
			continue
		}
		if why = notYet(now, trial); why != "" {
			continue
		}
		var settings domain.NetSettings
		if _, err := c.do(tries, http.MethodPost, "/rest/baystream/net/settings/confirm", nil, &settings); err != nil {
			return err
		}
		return a.print(settings, func(w io.Writer) { fmt.Fprintf(w, "confirmed: deployment network %s\n", settings.Deployment) })
	}
}

// notYet says what is missing until a deployment network on trial is in place.
func notYet(now domain.NetReport, trial domain.NetTrial) string {
	if len(now.Drift) > 0 {
		return now.Drift[0]
	}
	_, link, _ := strings.Cut(trial.Deployment, "vlan:")
	link, _, _ = strings.Cut(link, ",")
	for _, l := range now.Links {
		if l.Purpose == "deployment" && strings.HasSuffix(l.Name, "."+link) {
			if !l.Carrier {
				return l.Name + " has no carrier"
			}
			for _, w := range now.Warnings {
				if strings.Contains(w, l.Name+":") || strings.Contains(w, " over "+l.Name) {
					return w
				}
			}
			return ""
		}
	}
	if trial.Deployment == "" {
		return ""
	}
	return "its link is not there yet"
}

// at is the same client for another address of the appliance.
func (c *client) at(address string) (*client, error) {
	if address == "" {
		return nil, errors.New("DHCP lends the address: send POST /rest/baystream/net/settings/confirm there")
	}
	u, err := url.Parse(c.base)
	if err != nil {
		return nil, err
	}
	if port := u.Port(); port != "" {
		u.Host = net.JoinHostPort(address, port)
	} else {
		u.Host = address
	}
	there := *c
	there.base = u.String()
	there.http.CloseIdleConnections()
	return &there, nil
}
