package daemon

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"baystream/daemon/domain"
)

// What the health port shows to anybody is what is critical, without what only
// users may read; it is told when it changes.
func TestCriticalPartsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b, ended := newBoard(), make(chan error)
		var told []string
		go func() {
			ended <- b.tellProblems(ctx, nil, func(s string) error { told = append(told, s); return nil })
		}()
		set := func(name, status, detail string) {
			b.set(name, status, detail, "mend it")
			synctest.Wait()
		}
		set("hardware", domain.StatusOK, "fine")
		set("network", domain.StatusWarning, "half of it")
		set("data disk", domain.StatusCritical, "none")
		set("data disk", domain.StatusCritical, "none")
		set("storage", domain.StatusCritical, "volume of server web1")
		set("data disk", domain.StatusOK, "/dev/vda")
		set("storage", domain.StatusOK, "")
		for i := range 20 {
			b.set(strings.Repeat("x", i+1), domain.StatusCritical, "", strings.Repeat("much to do ", 50))
		}
		synctest.Wait()
		last := told[len(told)-1]
		if len(last) > maxProblems+20 || !strings.HasSuffix(last, "]") {
			t.Errorf("too much for a notification: %d bytes, ending in %.10q", len(last), last[len(last)-10:])
		}
		want := []string{
			`X_PROBLEMS=[]`,
			`X_PROBLEMS=[{"what":"data disk","reason":"none","remedy":"mend it"}]`,
			`X_PROBLEMS=[{"what":"data disk","reason":"none","remedy":"mend it"},{"what":"storage","reason":"","remedy":"mend it"}]`,
			`X_PROBLEMS=[{"what":"storage","reason":"","remedy":"mend it"}]`,
			`X_PROBLEMS=[]`,
		}
		if diff := cmp.Diff(want, told[:5]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
