package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLines(t *testing.T) {
	const name = "s"
	for _, tt := range []struct {
		in   string
		want []Command
	}{
		{"", nil},
		{"# comment\n\n   \t\n  # another", nil},
		{`echo "Create empty OS Volume of size 100" MiB`, []Command{{Line: 1, Args: []string{"echo", "Create empty OS Volume of size 100", "MiB"}}}},
		{"\t mkdir-p  /a/b \r", []Command{{Line: 1, Args: []string{"mkdir-p", "/a/b"}}}},
		{`echo 'a "b" \n' "c \"d\"\t\x41\101" e"f`, []Command{{Line: 1, Args: []string{"echo", `a "b" \n`, "c \"d\"\tAA", `e"f`}}}},
		{"echo a # b", []Command{{Line: 1, Args: []string{"echo", "a", "#", "b"}}}},
		{"-rm /x", []Command{{Line: 1, Ignore: true, Args: []string{"rm", "/x"}}}},
		{"- rm /x\n-!false", []Command{{Line: 1, Ignore: true, Args: []string{"rm", "/x"}}, {Line: 2, Kind: Shell, Ignore: true, Text: "false"}}},
		{`!echo "a | b" | cat`, []Command{{Line: 1, Kind: Shell, Text: `echo "a | b" | cat`}}},
		{"<!cat ./x", []Command{{Line: 1, Kind: Source, Text: "cat ./x"}}},
		{"cat /x | cat > ./y", []Command{{Line: 1, Args: []string{"cat", "/x"}, Piped: true, Text: " cat > ./y"}}},
		{"echo a|b", []Command{{Line: 1, Args: []string{"echo", "a|b"}}}},
		{"upload -<<END /x\na\n END\n# b\nEND\necho", []Command{
			{Line: 1, Args: []string{"upload", "-<<END", "/x"}, Here: []Here{{Arg: 1, Text: "a\n END\n# b\n"}}},
			{Line: 6, Args: []string{"echo"}}}},
		{"upload -<<'E O' /x", []Command{}}, // no word holds a space: see below
		{"upload -<<'END' /x\n$a\nEND", []Command{{Line: 1, Args: []string{"upload", "-<<'END'", "/x"}, Here: []Here{{Arg: 1, Text: "$a\n"}}}}},
		{"upload -<<E /x\nE", []Command{{Line: 1, Args: []string{"upload", "-<<E", "/x"}, Here: []Here{{Arg: 1}}}}},
		{"upload -<<E /x\r\na\r\nE\r", []Command{{Line: 1, Args: []string{"upload", "-<<E", "/x"}, Here: []Here{{Arg: 1, Text: "a\r\n"}}}}},
		{"echo -<<E", []Command{{Line: 1, Args: []string{"echo", "-<<E"}}}},
		{"echo “x”", []Command{{Line: 1, Args: []string{"echo", "“x”"}}}},
	} {
		for i := range tt.want {
			tt.want[i].Script = name
		}
		p, err := Parse(Expanded{Script: name, Text: tt.in})
		if tt.want != nil && len(tt.want) == 0 {
			if err == nil {
				t.Errorf("Parse(%q) succeeded", tt.in)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse(%q) = %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, p.Commands); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestParseErrorsNameScriptAndLine(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"echo\necho \"open", "plan script s line 2: a double quote is not closed"},
		{"echo 'open", "plan script s line 1: a single quote is not closed"},
		{`echo "a"b`, `plan script s line 1: no space behind the quoted word "a"`},
		{`echo "\q"`, `plan script s line 1: unknown escape "\\q\"" in double quotes: write two backslashes for one`},
		{"\n\nupload -<<END /x\nEND x", "plan script s line 3: the here-document has no end: write END alone on a line"},
		{"| cat", "plan script s line 1: a pipe without a command before it"},
		{"cat /x | ", "plan script s line 1: a pipe without a command behind it"},
	} {
		_, err := Parse(Expanded{Script: "s", Text: tt.in})
		if err == nil || err.Error() != tt.want {
			t.Errorf("Parse(%q) = %v, want %s", tt.in, err, tt.want)
		}
	}
}

func TestCheckFindsWhatMustFail(t *testing.T) {
	p, err := Parse(Expanded{Script: "a", Text: "echo\nNonsense here"}, Expanded{Script: "b", Text: "upload x\n-glob rm-rf /x*\nglob frob /x\nvgrename a b\n!frob"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range Check(p) {
		got = append(got, p.String())
	}
	want := []string{
		"plan script a line 2: Nonsense: unknown command",
		"plan script b line 1: upload: 1 arguments; usage: upload LOCAL REMOTE",
		"plan script b line 3: frob: unknown command",
		"plan script b line 4: vgrename: changes volume groups, which are not supported here; let the server do it at its first boot",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Check (-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("echo \"a\" 'b' | cat\nupload -<<E /x\nE\n-<!x\n!y")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(Expanded{Script: "s", Text: text})
		if err != nil {
			return
		}
		lines, last := strings.Count(text, "\n")+1, 0
		for _, c := range p.Commands {
			if c.Line <= last || c.Line > lines || c.Kind == Word && len(c.Args) == 0 {
				t.Errorf("command %+v after line %d of %d", c, last, lines)
			}
			last = c.Line
		}
		Check(p)
	})
}
