package rest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// Who connected before the end and asks after it is answered, not dropped.
func TestWhoGotInIsAnsweredAtTheEnd(t *testing.T) {
	g := newRig(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.srv.ServeLocal(ctx, ln) }()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(c net.Conn) {
		t.Helper()
		if _, err := io.WriteString(c, "GET /rest/baystream/health HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		resp.Body.Close()
	}
	first, second := dial(), dial()
	ask(second) // so the first was let in, too
	end()
	ask(first)
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
}
