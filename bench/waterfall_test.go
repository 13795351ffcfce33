package main

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBootIsTakenApart(t *testing.T) {
	const console = `bench boot-ms 13000.0
bench-boot status {"ok":true,"uptime_sec":11,"kernel_sec":5,"steps":[{"name":"mount proc","begun_at":5,"seconds":0.25},{"name":"late","begun_at":12,"seconds":1}],"services":[{"name":"baystreamd","begun_at":6,"up_at":11}]}
bench-boot log {"ok":true,"lines":["2026-11-22T10:00:01.000Z init: ready","2026-11-22T10:00:05.000Z baystreamd: time=x level=INFO msg=\"data disk ready\" part=disk","2026-11-22T10:00:06.500Z baystreamd: baystream: REST ready https://192.0.2.10:443","2026-11-22T10:00:09.000Z baystreamd: time=x level=INFO msg=late"]}
bench end
`
	got, err := bars(console, 13)
	if err != nil {
		t.Fatal(err)
	}
	want := []bar{
		{What: "firmware, kernel brought into memory", End: 2},
		{What: "kernel", Begin: 2, End: 7},
		{What: "step mount proc", Begin: 7, End: 7.25},
		{What: "baystreamd", Begin: 8, End: 13},
		{What: "until: data disk ready", Begin: 8, End: 11.5, Inside: true},
		{What: "until: REST ready https://192.0.2.10:443", Begin: 11.5, End: 13, Inside: true},
		{What: "REST answers", Begin: 13, End: 13},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bars (-want +got):\n%s", diff)
	}
	if text := waterfall(got); strings.Count(text, "\n") != len(want) || !strings.Contains(text, "data disk ready") {
		t.Errorf("waterfall:\n%s", text)
	}
	for d := xml.NewDecoder(strings.NewReader(waterfallSVG(got))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("SVG: %v", err)
		}
	}
	if _, err := bars("nothing", 1); err == nil {
		t.Error("a console without an account of the boot has bars")
	}
}
