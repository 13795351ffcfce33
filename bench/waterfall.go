package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A bar is a part of a boot, in seconds since power-on.
type bar struct {
	What       string  `json:"what"`
	Begin, End float64 // zero length: a moment
	Inside     bool    // of the bar before it that is not inside
}

var bootLine = regexp.MustCompile(`(?m)^bench-boot (status|log) (\{.*\})\s*$`)

// bars takes a boot apart. The console has PID 1's status and log; rest is when
// REST answered first, in seconds since power-on.
func bars(console string, rest float64) ([]bar, error) {
	var status struct {
		Uptime float64 `json:"uptime_sec"`
		Kernel float64 `json:"kernel_sec"`
		Steps  []struct {
			Name    string  `json:"name"`
			Begun   float64 `json:"begun_at"`
			Seconds float64 `json:"seconds"`
		} `json:"steps"`
		Services []struct {
			Name  string  `json:"name"`
			Begun float64 `json:"begun_at"`
			Up    float64 `json:"up_at"`
		} `json:"services"`
	}
	var log struct {
		Lines []string `json:"lines"`
	}
	for _, m := range bootLine.FindAllStringSubmatch(console, -1) {
		var v any = &status
		if m[1] == "log" {
			v = &log
		}
		if err := json.Unmarshal([]byte(m[2]), v); err != nil {
			return nil, fmt.Errorf("boot %s: %w", m[1], err)
		}
	}
	if status.Uptime == 0 {
		return nil, errors.New("the console has no account of the boot")
	}
	// The guest asks PID 1 right after REST answered: then one clock says
	// rest, the other Uptime.
	power := max(rest-status.Uptime, 0)
	out := []bar{{What: "firmware, kernel brought into memory", End: power}, {What: "kernel", Begin: power, End: power + status.Kernel}}
	for _, s := range status.Steps {
		if b := (bar{What: "step " + s.Name, Begin: power + s.Begun, End: power + s.Begun + s.Seconds}); b.Begin < rest {
			out = append(out, b)
		}
	}
	for _, s := range status.Services {
		if s.Name != "baystreamd" {
			continue
		}
		out = append(out, bar{What: s.Name, Begin: power + s.Begun, End: rest})
		out = append(out, marks(log.Lines, power+s.Begun, rest)...)
	}
	return append(out, bar{What: "REST answers", Begin: rest, End: rest}), nil
}

var daemonLine = regexp.MustCompile(`^(\S+) baystreamd: (?:.*?msg=(?:"([^"]*)"|(\S+))|baystream: (.*))`)

// marks are the parts of the daemon's start: each lasts until the daemon said
// something. Its lines have the time of day: the line that says that REST is
// ready is taken for the moment when it answered.
func marks(lines []string, begin, rest float64) []bar {
	type said struct {
		at   time.Time
		what string
	}
	var all []said
	for _, l := range lines {
		m := daemonLine.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			continue
		}
		what := m[2] + m[3] + m[4]
		all = append(all, said{at, what})
		if strings.HasPrefix(what, "REST ready") {
			break
		}
	}
	if len(all) == 0 {
		return nil
	}
	last := all[len(all)-1].at
	var out []bar
	from := begin
	for _, s := range all {
		to := rest - last.Sub(s.at).Seconds()
		if to < from {
			continue
		}
		if to-from >= 0.02 { // what is shorter is told by its neighbour
			out = append(out, bar{What: "until: " + s.what, Begin: from, End: to, Inside: true})
			from = to
		}
	}
	return out
}

// waterfall prints bars as lines.
func waterfall(all []bar) string {
	var b strings.Builder
	end := lastEnd(all)
	const width = 50
	for _, r := range all {
		from, to := int(r.Begin/end*width), int(r.End/end*width)
		if r.End-r.Begin < 0.005 && r.What != "REST answers" {
			continue
		}
		what := r.What
		if r.Inside {
			what = "  " + what
		}
		fmt.Fprintf(&b, "%7.3f s %7.3f s  |%s%s%s| %.60s\n", r.Begin, r.End-r.Begin, strings.Repeat(" ", from), strings.Repeat("#", max(to-from, 1)),
			strings.Repeat(" ", max(width-max(to, from+1), 0)), what)
	}
	return b.String()
}

func lastEnd(all []bar) float64 {
	end := 0.001
	for _, r := range all {
		end = max(end, r.End)
	}
	return end
}

// waterfallSVG draws bars.
func waterfallSVG(all []bar) string {
	const left, width, line = 330, 620, 18
	shown := slices.DeleteFunc(slices.Clone(all), func(r bar) bool { return r.End-r.Begin < 0.005 && r.What != "REST answers" })
	end := lastEnd(all)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+80, line*len(shown)+30)
	for s := 0; float64(s) <= end; s++ {
		x := left + float64(s)/end*width
		fmt.Fprintf(&b, `<line x1="%.1f" y1="0" x2="%.1f" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" fill="#666">%d s</text>`+"\n", x, x, line*len(shown)+8, x+2, line*len(shown)+22, s)
	}
	for i, r := range shown {
		colour, indent := "#3568a8", 0
		if r.Inside {
			colour, indent = "#8db3dd", 14
		}
		x, w := left+r.Begin/end*width, max((r.End-r.Begin)/end*width, 2)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" fill="#666">%.2f</text>`+"\n",
			4+indent, i*line+14, html.EscapeString(fmt.Sprintf("%.52s", r.What)), x, i*line+4, w, line-6, colour, x+w+3, i*line+14, r.End-r.Begin)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
