package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"baystream/daemon/deploy"
	"baystream/daemon/domain"
	"baystream/daemon/plan"
)

// attributesJSON are a script's attributes in the form of the interface.
func attributesJSON(content string) string {
	attrs, err := scriptAttributes(content)
	if err != nil || len(attrs) == 0 {
		return "[]"
	}
	b, err := json.Marshal(attrs)
	if err != nil {
		return "[]" // strings always marshal
	}
	return string(b)
}

// Attributes implements deploy.Personaliser.
func (r *storageRole) Attributes(content string) ([]domain.ScriptAttribute, error) {
	return scriptAttributes(content)
}

// openVolume opens the device of a volume for writing: one that is a draft.
func (r *storageRole) openVolume(id string) (*os.File, int64, error) {
	st, err := r.up()
	if err != nil {
		return nil, 0, err
	}
	v, err := st.Volume(id)
	if err != nil {
		return nil, 0, kinds(err, "OS volume "+id)
	}
	f, err := os.OpenFile(v.Device(), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("OS volume %s: %w", v.Name, err)
	}
	return f, int64(v.SizeBytes), nil
}

// copySparse copies blocks that are not zero; dst must read as zeros where it
// was never written.
func copySparse(ctx context.Context, dst io.WriterAt, src io.Reader) error {
	buf := make([]byte, 1<<20)
	zero := make([]byte, len(buf))
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(src, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Run implements deploy.Personaliser.
func (r *storageRole) Run(ctx context.Context, volumeID string, scripts []deploy.Script, values map[string]string, secrets map[string]bool, log io.Writer) (err error) {
	st, err := r.up()
	if err != nil {
		return err
	}
	v, err := st.Volume(volumeID)
	if err != nil {
		return kinds(err, "OS volume "+volumeID)
	}
	given := map[string]plan.Value{}
	for name, text := range values {
		given[name] = plan.Value{Text: text, Secret: secrets[name]}
	}
	var expanded []plan.Expanded
	fmt.Fprintf(log, "=== 2. plan scripts\n")
	for _, s := range scripts {
		x, err := plan.Expand(plan.Script{Name: s.Name, Text: s.Content}, given)
		if err != nil {
			return &domain.Error{Kind: domain.Invalid, Object: "plan script " + s.Name, Err: err}
		}
		fmt.Fprintf(log, "--- %s\n%s\n", s.Name, x.Masked)
		expanded = append(expanded, x)
	}
	parts, err := st.Partitions(ctx, volumeID)
	if err != nil {
		return kinds(err, "OS volume "+volumeID)
	}
	defer func() {
		if rerr := st.ReleasePartitions(context.WithoutCancel(ctx), volumeID); err == nil {
			err = rerr
		}
	}()
	devices := []plan.Device{{Name: "/dev/sda", Node: v.Device()}}
	for _, p := range parts {
		if p.Number > 0 {
			devices = append(devices, plan.Device{Name: fmt.Sprintf("/dev/sda%d", p.Number), Node: p.Node})
		}
	}
	fmt.Fprintf(log, "=== 3. output\n")
	err = plan.Run(ctx, plan.Job{Scripts: expanded, Devices: devices, Log: log, Secrets: plan.Secrets(given)})
	return scriptError(err)
}

// scriptError gives an error that a script caused the kind of a bad request:
// whoever wrote the script can mend it.
func scriptError(err error) error {
	var syntax *plan.SyntaxError
	var run *plan.RunError
	if errors.As(err, &syntax) || errors.As(err, &run) && run.Script != "" {
		return (&domain.Error{Kind: domain.Invalid, Object: "build plan", Err: err}).
			Fix("Correct the plan script at that line; the log of the OS volume has its output.")
	}
	return err
}
