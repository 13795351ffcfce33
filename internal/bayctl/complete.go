package bayctl

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

// completeTimeout bounds how long a Tab may take.
const completeTimeout = 5 * time.Second

// namesOf asks the server for the names that an argument can have.
type namesOf func(ctx context.Context, c *client) ([]string, error)

// completion is how the shell completes words that names knows. What cannot be
// asked for offers nothing: a Tab is no place for an error.
func (a *app) completion(names namesOf) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		c, err := a.connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := names(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// oneArg completes the first argument of cmd and no other.
func (a *app) oneArg(cmd *cobra.Command, names namesOf) *cobra.Command {
	complete := a.completion(names)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, word)
	}
	return cmd
}

// entityNames are the names in a collection.
func entityNames[T any, P entityPtr[T]](uri string) namesOf {
	return func(ctx context.Context, c *client) ([]string, error) {
		all, err := list[T](ctx, c, uri)
		var names []string
		for i := range all {
			names = append(names, P(&all[i]).Base().Name)
		}
		return names, err
	}
}

func artifactNames(ctx context.Context, c *client) ([]string, error) {
	all, err := allArtifacts(ctx, c)
	var names []string
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names, err
}

func taskIDs(ctx context.Context, c *client) ([]string, error) {
	all, err := list[domain.Task](ctx, c, domain.Tasks)
	var ids []string
	for _, t := range all {
		ids = append(ids, cobra.CompletionWithDesc(t.ID, t.Title()+" "+t.AssociatedResource.ResourceName))
	}
	return ids, err
}
