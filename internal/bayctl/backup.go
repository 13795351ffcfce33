package bayctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"

	"github.com/spf13/cobra"

	"baystream/daemon/domain"
)

const backupsURI = domain.ArtifactBundles + "/backups"

func (a *app) backupCmd() *cobra.Command {
	return &cobra.Command{Use: "backup FILE", Short: "Make a backup of all artifacts and download it (passwords are not in it)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			var t domain.Task
			if _, err := c.do(ctx, http.MethodPost, backupsURI, map[string]string{"deploymentGroupURI": domain.DeploymentGroups + "/" + domain.DeploymentGroupID}, &t); err != nil {
				return err
			}
			if err := a.follow(ctx, c, t); err != nil {
				return err
			}
			return download(ctx, c, backupsURI+"/archive/"+path.Base(t.AssociatedResource.ResourceURI), args[0])
		}}
}

func (a *app) restoreCmd() *cobra.Command {
	return &cobra.Command{Use: "restore FILE", Short: "Upload a backup and bring its artifacts back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			t, err := c.upload(ctx, backupsURI+"/archive", args[0], func(int64, int64) {})
			if err == nil {
				err = a.follow(ctx, c, t)
			}
			if err != nil {
				return err
			}
			if _, err := c.do(ctx, http.MethodPut, t.AssociatedResource.ResourceURI, map[string]string{}, &t); err != nil {
				return err
			}
			return a.follow(ctx, c, t)
		}}
}

// download writes an answer to a new file, which only its owner may read and
// which is gone when the download fails.
func download(ctx context.Context, c *client, uri, file string) error {
	resp, err := c.open(ctx, http.MethodGet, uri, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already: name another file", file)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", file, err), os.Remove(file))
	}
	return nil
}
