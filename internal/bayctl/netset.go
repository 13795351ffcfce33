package bayctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

func (a *app) netSetCmd() *cobra.Command {
	change := domain.NetChange{}
	var grace time.Duration
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
			if change.Management = args[0]; args[0] == "dhcp" {
				change.Management = ""
			}
			change.GraceSeconds = int(grace / time.Second)
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			return a.changeNetwork(cmd.Context(), c, change)
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", time.Minute, "how long the appliance tries the settings before it takes them back")
	cmd.Flags().BoolVar(&change.Unchecked, "unchecked", false, "do not ask first whether another station has the address")
	return cmd
}

const confirmEvery = time.Second

// changeNetwork puts settings on trial and confirms them over the new address.
func (a *app) changeNetwork(ctx context.Context, c *client, change domain.NetChange) error {
	var trial domain.NetTrial
	if _, err := c.do(ctx, http.MethodPut, "/rest/baystream/net/settings", change, &trial); err != nil {
		return err
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
