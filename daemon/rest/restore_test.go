package rest

import (
	"strings"
	"testing"

	"baystream/daemon/domain"
)

func TestVolumeIsRestored(t *testing.T) {
	g := readyRig(t)
	const path = domain.OSVolumes + "/v/restore"
	for body, want := range map[any]string{nil: "for  false", `{"serverProfileUri":"/rest/server-profiles/p","force":true}`: "for /rest/server-profiles/p true"} {
		g.want(202, "PUT", path, body)
		if got := g.fake.last(); !strings.HasSuffix(got, want) {
			t.Errorf("PUT %v asked for %q, want %q", body, got, want)
		}
	}
	g.want(405, "POST", path, nil)
}
