package hw

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	framePassword = "hunter-42-secret"
	goodDocument  = `{"frame":"VF0001","bay":"appliance bay 1","address":"169.254.1.11/16",
		"manager":{"url":"https://169.254.1.1","certificateSha256":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","user":"bay-appliance-1","password":"hunter-42-secret"},
		"bays":[{"bay":"appliance bay 1","kind":"appliance"},{"bay":"device bay 1","kind":"device"}],"later":true}`
)

func TestParseFrameDocument(t *testing.T) {
	got, err := ParseFrameDocument([]byte(goodDocument + "\n\x00\x00\xff"))
	if err != nil {
		t.Fatal(err)
	}
	want := FrameDocument{Frame: "VF0001", Bay: "appliance bay 1", Address: netip.MustParsePrefix("169.254.1.11/16"),
		Manager: FrameManager{"https://169.254.1.1", strings.Repeat("ab", 32), "bay-appliance-1", framePassword},
		Bays:    []FrameBay{{"appliance bay 1", Appliance}, {"device bay 1", Device}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, tc := range []struct{ old, new, err string }{
		{`"VF0001"`, `""`, "member frame"},
		{`"appliance bay 1","address"`, `"cellar","address"`, "member bay"},
		{"169.254.1.11/16", "8.8.8.8/16", "member address"},
		{"https://169.254.1.1", "http://169.254.1.1", "member manager.url"},
		{"ABAB", "", "certificateSha256"},
		{`,"user":"bay-appliance-1"`, "", "user or password"},
		{`{"frame"`, `["frame"`, "not a JSON object"},
		{`"hunter-42-secret"`, `["hunter-42-secret"]`, "member manager.password"},
		{`"169.254.1.11/16"`, `"x"`, "wrong form"},
		{goodDocument, " \x00\xff", "is empty"},
	} {
		_, err := ParseFrameDocument([]byte(strings.Replace(goodDocument, tc.old, tc.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s instead of %s: %v, want %q", tc.new, tc.old, err, tc.err)
		}
		if err != nil && strings.Contains(err.Error(), framePassword) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	d, err := ParseFrameDocument([]byte(goodDocument))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Info("x", "document", d, "password", d.Manager.Password)
	log = slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "document", d, "password", d.Manager.Password)
	fmt.Fprintf(&out, "%v %+v %#v %s %q", d, d, d, d.Manager.Password, d.Manager.Password)
	if err := json.NewEncoder(&out).Encode(d); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), framePassword) {
		t.Errorf("the password prints:\n%s", &out)
	}
}

func TestAgree(t *testing.T) {
	bay := Bay{Kind: Appliance, Number: 1, Frame: "VF0001"}
	for _, tc := range []struct {
		bay        Bay
		frame, doc string
		err        string
	}{
		{bay, "VF0001", "appliance bay 1", ""},
		{bay, "VF0001", "Appliance  Bay 1", ""},
		{bay, "VF0001", "appliance bay 2", "SMBIOS says appliance bay 1, the frame's document says appliance bay 2"},
		{bay, "VF0002", "appliance bay 1", `says frame "VF0001", the frame's document says frame "VF0002"`},
		{Bay{Frame: "VF0001"}, "VF0001", "appliance bay 2", "SMBIOS says no bay"},
	} {
		err := Agree(tc.bay, FrameDocument{Frame: tc.frame, Bay: tc.doc})
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("Agree(%v, %s of %s) = %v, want %q", tc.bay, tc.doc, tc.frame, err, tc.err)
		}
	}
}

func FuzzParseFrameDocument(f *testing.F) {
	f.Add([]byte(goodDocument))
	f.Add([]byte(`{"frame":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseFrameDocument(b)
		if err == nil && (d.Frame == "" || len(d.Bays) > maxBays) {
			t.Errorf("%q is taken as %+v", b, d)
		}
	})
}
