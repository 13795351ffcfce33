package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"baystream/qemu"
)

// A history is what concurrent clients did to one resource and what they were
// told. Each write has a value of its own and names the eTag of the value that
// its client had read, so the resource is a register with compare-and-swap, and
// a checker can tell whether what was told could have happened one after the
// other (https://github.com/anishathalye/porcupine).
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

type access struct {
	write    bool
	old, new string // of a write: the value read before, and the one to come
}

type outcome struct {
	value   string // of a read
	refused bool   // of a write: the eTag was old
	unknown bool   // of a write: no answer, or one that says nothing
}

// register is what a resource should be.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		value, in, out := state.(string), input.(access), output.(outcome)
		switch {
		case !in.write:
			return out.value == value, value
		case out.refused:
			return value != in.old, value
		case out.unknown && value != in.old: // it had no effect, or will never be seen
			return true, value
		}
		return value == in.old, in.new
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

// record notes an access. One without a known outcome may have its effect at
// any later time.
func (h *history) record(client int, in access, out outcome, call time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := int64(time.Since(h.began))
	if out.unknown {
		end = int64(1 << 62)
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(call), Return: end})
}

// check says whether the history could have happened.
func (h *history) check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	reads, writes, refused, unknown := 0, 0, 0, 0
	for _, op := range h.ops {
		switch in, out := op.Input.(access), op.Output.(outcome); {
		case !in.write:
			reads++
		case out.refused:
			refused++
		case out.unknown:
			unknown++
		default:
			writes++
		}
	}
	t.Logf("history: %d reads, %d writes, %d refused for an old eTag, %d of unknown outcome", reads, writes, refused, unknown)
	if writes == 0 || reads == 0 {
		t.Error("the history is empty")
	}
	if got := porcupine.CheckOperationsTimeout(register, h.ops, time.Minute); got != porcupine.Ok {
		t.Errorf("the clients' history is %s: what they were told cannot have happened one after the other", got)
	}
}

// described is a resource whose description is the register.
type described = map[string]any

// change reads and writes the resource at uri until ctx ends. Anybody may
// answer a read; a write that went to a standby was not done.
func (h *history) change(ctx context.Context, id int, uri string, clients ...*qemu.Client) {
	for n := 0; ctx.Err() == nil; n++ {
		c := clients[n%len(clients)]
		r := described{}
		call := time.Since(h.began)
		if err := h.once(ctx, func(ctx context.Context) error { return c.Get(ctx, uri, &r) }); err != nil {
			continue
		}
		old, _ := r["description"].(string)
		h.record(id, access{}, outcome{value: old}, call)
		in := access{write: true, old: old, new: fmt.Sprintf("%d.%d", id, n)}
		r["description"] = in.new
		call = time.Since(h.began)
		err := h.once(ctx, func(ctx context.Context) error { return c.Do(ctx, http.MethodPut, uri, r, nil) })
		var answer *qemu.RESTError
		switch {
		case err == nil:
			h.record(id, in, outcome{}, call)
		case errors.As(err, &answer) && answer.Status == http.StatusPreconditionFailed:
			h.record(id, in, outcome{refused: true}, call)
		case errors.As(err, &answer) && answer.Status == http.StatusTemporaryRedirect: // not done
		default:
			h.record(id, in, outcome{unknown: true}, call)
		}
	}
}

// once bounds one request, and leaves the machine to others after it.
func (h *history) once(ctx context.Context, do func(context.Context) error) error {
	one, cancel := context.WithTimeout(context.WithoutCancel(ctx), qemu.Deadline(time.Second))
	defer cancel()
	err := do(one)
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
	return err
}

func TestCheckerKnowsARegister(t *testing.T) {
	op := func(in access, out outcome, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: end}
	}
	first := op(access{write: true, old: "", new: "a"}, outcome{}, 0, 1)
	lost := op(access{write: true, old: "a", new: "b"}, outcome{unknown: true}, 2, 1<<62)
	for name, c := range map[string]struct {
		ops  []porcupine.Operation
		want bool
	}{
		"in order":                   {[]porcupine.Operation{first, op(access{}, outcome{value: "a"}, 2, 3)}, true},
		"a stale read":               {[]porcupine.Operation{first, op(access{}, outcome{value: ""}, 2, 3)}, false},
		"a read beside the write":    {[]porcupine.Operation{first, op(access{}, outcome{value: ""}, 0, 3)}, true},
		"an acknowledged write lost": {[]porcupine.Operation{first, op(access{write: true, old: "", new: "c"}, outcome{}, 2, 3)}, false},
		"refused for nothing":        {[]porcupine.Operation{first, op(access{write: true, old: "a", new: "c"}, outcome{refused: true}, 2, 3)}, false},
		"unknown, done":              {[]porcupine.Operation{first, lost, op(access{}, outcome{value: "b"}, 4, 5)}, true},
		"unknown, done later":        {[]porcupine.Operation{first, lost, op(access{}, outcome{value: "a"}, 4, 5), op(access{}, outcome{value: "b"}, 6, 7)}, true},
		"unknown, never done":        {[]porcupine.Operation{first, lost, op(access{}, outcome{value: "a"}, 4, 5)}, true},
		"unknown, done and undone":   {[]porcupine.Operation{first, lost, op(access{}, outcome{value: "b"}, 4, 5), op(access{}, outcome{value: "a"}, 6, 7)}, false},
	} {
		if got := porcupine.CheckOperations(register, c.ops); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
