package bayctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

const votesURI = "/rest/baystream/votes"

func (a *app) votesCmd() *cobra.Command {
	return simple(a, "votes", "Which votes exist, who is active, what the next loss would do", votesURI, showVotes)
}

// fetchVotes is the votes, or nil of an appliance that can be in no domain.
func fetchVotes(ctx context.Context, c *client) (*domain.VotesReport, error) {
	var v domain.VotesReport
	_, err := c.do(ctx, http.MethodGet, votesURI, nil, &v)
	var e *apiError
	if errors.As(err, &e) && (e.Status == http.StatusServiceUnavailable || e.Status == http.StatusNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func showVotes(w io.Writer, v domain.VotesReport) {
	fmt.Fprintf(w, "votes: %s, %d of %d answer, %d needed   active: %s\n%s\n\n", v.Status, v.Healthy, v.Voters, v.Needed, cmp.Or(v.Active, "nobody"), v.Verdict)
	var lines [][]any
	for _, m := range v.Members {
		lines = append(lines, []any{m.Title, m.Role, voteText(m), m.Loss})
	}
	rows(w, []any{"module", "role", "now", "if it is lost"}, lines)
	if len(v.Groups) == 0 {
		return
	}
	fmt.Fprintln(w)
	showGroups(w, v.Groups)
}

func showGroups(w io.Writer, groups []domain.VoteGroup) {
	var lines [][]any
	for _, g := range groups {
		lines = append(lines, []any{g.Name, g.Owner, g.Home, g.Epoch, g.State})
	}
	rows(w, []any{"group", "served by", "home", "epoch", "state"}, lines)
}

// voteText is what a member is now, in a few words.
func voteText(m domain.VoteMember) string {
	words := []string{"vote"}
	if !m.Vote {
		words = []string{"copy"}
	}
	if !m.Healthy {
		words = append(words, "LOST")
	}
	if m.Active {
		words = append(words, "active")
	}
	if m.Leader {
		words = append(words, "leads the domain state")
	}
	return strings.Join(words, ", ")
}
