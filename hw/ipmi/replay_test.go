package ipmi

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// replay is a controller made of captured messages: each line of the capture is
// a request (network function, command, data) and its answer, in hex. A request
// that comes again gets the answers in their order, the last one for ever.
type replay struct {
	t       *testing.T
	mu      sync.Mutex
	answers map[string][][]byte
}

func loadReplay(t *testing.T, file string) *replay {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &replay{t: t, answers: map[string][][]byte{}}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		req, ans, ok := strings.Cut(sc.Text(), " > ")
		b, err := hex.DecodeString(ans)
		if !ok || err != nil {
			t.Fatalf("%s: line %q", file, sc.Text())
		}
		r.answers[req] = append(r.answers[req], b)
	}
	return r
}

func requestText(netFn, cmd byte, data []byte) string {
	return strings.TrimSpace(fmt.Sprintf("%02x %02x %x", netFn, cmd, data))
}

func (r *replay) Close() error { return nil }

func (r *replay) Exchange(_ context.Context, netFn, cmd byte, data []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	req := requestText(netFn, cmd, data)
	have := r.answers[req]
	if len(have) == 0 {
		return nil, fmt.Errorf("not in the capture: %s", req)
	}
	if len(have) > 1 {
		r.answers[req] = have[1:]
	}
	return have[0], nil
}

// recorder prints what passes a transport in the form of a capture.
type recorder struct {
	Transport
	t *testing.T
}

const captureMark = "capture: "

func (r recorder) Exchange(ctx context.Context, netFn, cmd byte, data []byte) ([]byte, error) {
	b, err := r.Transport.Exchange(ctx, netFn, cmd, data)
	if err == nil {
		fmt.Printf("%s%s > %x\n", captureMark, requestText(netFn, cmd, data), b)
	}
	return b, err
}
