package plan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"

	"mvdan.cc/sh/moreinterp/coreutils"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shellResult is how a line of shell ended.
type shellResult struct {
	Exit    int      `json:"exit"`
	Msg     string   `json:"msg"`     // why it could not run at all
	Missing []string `json:"missing"` // commands that were called but do not exist
}

func (r shellResult) err() error {
	switch {
	case r.Msg != "":
		return fmt.Errorf("shell: %s", r.Msg)
	case r.Exit != 0 && len(r.Missing) > 0:
		return fmt.Errorf("shell: exit status %d (command not found: %s)", r.Exit, strings.Join(r.Missing, ", "))
	case r.Exit != 0:
		return fmt.Errorf("shell: exit status %d", r.Exit)
	}
	return nil
}

// interpret runs a line of bash in the directory dir of this process's root.
// Nothing is executed: builtins and small Go commands are all there is.
func interpret(ctx context.Context, line, dir string, stdin io.Reader, stdout, stderr io.Writer) shellResult {
	var res shellResult
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(line), "")
	if err != nil {
		return shellResult{Exit: 2, Msg: err.Error()}
	}
	missing := map[string]bool{}
	notFound := func(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
		return func(ctx context.Context, args []string) error {
			missing[args[0]] = true
			fmt.Fprintf(interp.HandlerCtx(ctx).Stderr, "%s: command not found\n", args[0])
			return interp.ExitStatus(127)
		}
	}
	r, err := interp.New(
		interp.Env(expand.ListEnviron("PATH=/bin", "HOME=/", "PWD="+dir, "LANG=C.UTF-8", "TMPDIR=/", "USER=plan")),
		interp.Dir(dir),
		interp.StdIO(stdin, stdout, stderr),
		interp.OpenHandler(openNull(interp.DefaultOpenHandler())),
		interp.ExecHandlers(tools, coreutils.ExecHandler, notFound),
	)
	if err != nil {
		return shellResult{Exit: 2, Msg: err.Error()}
	}
	err = r.Run(ctx, file)
	var status interp.ExitStatus
	if errors.As(err, &status) {
		res.Exit = int(status)
	} else if err != nil {
		res.Exit, res.Msg = 1, err.Error()
	}
	for name := range missing {
		res.Missing = append(res.Missing, name)
	}
	sort.Strings(res.Missing)
	return res
}

// openNull gives scripts the one device that they need.
func openNull(next interp.OpenHandlerFunc) interp.OpenHandlerFunc {
	return func(ctx context.Context, p string, flag int, perm fs.FileMode) (io.ReadWriteCloser, error) {
		if p == "/dev/null" {
			return null{}, nil
		}
		if strings.HasPrefix(p, "/dev/") {
			return nil, &fs.PathError{Op: "open", Path: p, Err: errors.New("there are no devices here")}
		}
		return next(ctx, p, flag, perm)
	}
}

type null struct{}

func (null) Read([]byte) (int, error)    { return 0, io.EOF }
func (null) Write(p []byte) (int, error) { return len(p), nil }
func (null) Close() error                { return nil }
