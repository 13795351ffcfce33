package plan

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind is what a command line does.
type Kind int

const (
	Word   Kind = iota // a word of the language with arguments
	Shell              // !line: run by the shell
	Source             // <!line: run by the shell, its output read as commands
)

// Command is one line of a plan script, or more with its here-document.
type Command struct {
	Script string // where it stands
	Line   int    // from 1
	Kind   Kind
	Ignore bool     // a failure does not matter
	Args   []string // the word and its arguments
	Here   []Here   // here-documents among them
	Text   string   // the line for the shell, or the one that reads the word's output
	Piped  bool     // Text reads the output of the word
}

// Here is a here-document: the argument -<<END and the lines up to END.
type Here struct {
	Arg  int // index in Args
	Text string
}

// Plan is the scripts of a build plan as one session.
type Plan struct {
	Commands []Command
}

// SyntaxError is a line that cannot be read.
type SyntaxError struct {
	Script string
	Line   int
	Msg    string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("plan script %s line %d: %s", e.Script, e.Line, e.Msg)
}

// Parse reads expanded scripts in the order in which they run. Words are not
// looked up yet: see Check. The error is a *SyntaxError.
func Parse(scripts ...Expanded) (*Plan, error) {
	p := &Plan{}
	for _, s := range scripts {
		cmds, err := parseScript(s.Script, s.Text)
		if err != nil {
			return nil, err
		}
		p.Commands = append(p.Commands, cmds...)
	}
	return p, nil
}

func parseScript(name, text string) ([]Command, error) {
	lines := strings.Split(text, "\n")
	var cmds []Command
	for i := 0; i < len(lines); i++ {
		cmd := Command{Script: name, Line: i + 1}
		fail := func(msg string) error { return &SyntaxError{Script: name, Line: cmd.Line, Msg: msg} }
		if ok, msg := cmd.parseLine(strings.TrimSuffix(lines[i], "\r")); msg != "" {
			return nil, fail(msg)
		} else if !ok {
			continue
		}
		for arg, a := range cmd.Args {
			end, ok := hereEnd(cmd.Args[0], a)
			if !ok || cmd.Kind != Word {
				continue
			}
			body, n := hereText(lines[i+1:], end)
			if n < 0 {
				return nil, fail(fmt.Sprintf("the here-document has no end: write %s alone on a line", end[0]))
			}
			cmd.Here = append(cmd.Here, Here{Arg: arg, Text: body})
			i += n
		}
		cmds = append(cmds, cmd)
	}
	return cmds, nil
}

// hereEnd tells by which lines the here-document of an argument ends, if it is
// one. The word may be quoted as in other shells; nothing is expanded anyway.
func hereEnd(word, arg string) (ends []string, ok bool) {
	end, ok := strings.CutPrefix(arg, "-<<")
	if !ok || end == "" || word == "echo" {
		return nil, false
	}
	for _, q := range []string{"'", `"`} {
		if len(end) > 2 && strings.HasPrefix(end, q) && strings.HasSuffix(end, q) {
			return []string{end[1 : len(end)-1], end}, true
		}
	}
	return []string{end}, true
}

// hereText is the text up to the end line and how many lines that takes with
// it, or -1.
func hereText(lines []string, ends []string) (string, int) {
	var b strings.Builder
	for i, l := range lines {
		for _, end := range ends {
			if strings.TrimSuffix(l, "\r") == end {
				return b.String(), i + 1
			}
		}
		b.WriteString(l + "\n")
	}
	return "", -1
}

// parseLine reads one line. It reports false for an empty one or a comment,
// and what is wrong, if anything.
func (c *Command) parseLine(line string) (ok bool, msg string) {
	line = strings.TrimLeft(line, " \t")
	if rest, found := strings.CutPrefix(line, "-"); found {
		c.Ignore, line = true, strings.TrimLeft(rest, " \t")
	}
	switch {
	case line == "" || line[0] == '#':
		return false, ""
	case line[0] == '!':
		c.Kind, c.Text = Shell, line[1:]
		return true, ""
	case strings.HasPrefix(line, "<!"):
		c.Kind, c.Text = Source, line[2:]
		return true, ""
	}
	return true, c.parseWords(line)
}

// parseWords splits a line as guestfish does: quotes count only where a word
// begins, and a word that begins with | hands the rest to the shell.
func (c *Command) parseWords(line string) (msg string) {
	for line = strings.TrimLeft(line, " \t"); line != ""; line = strings.TrimLeft(line, " \t") {
		var word string
		switch line[0] {
		case '|':
			if len(c.Args) == 0 {
				return "a pipe without a command before it"
			}
			c.Text, c.Piped = line[1:], true
			if strings.TrimSpace(c.Text) == "" {
				return "a pipe without a command behind it"
			}
			return ""
		case '"':
			word, line, msg = doubleQuoted(line[1:])
		case '\'':
			end := strings.IndexByte(line[1:], '\'')
			if end < 0 {
				return "a single quote is not closed"
			}
			word, line = line[1:1+end], line[2+end:]
		default:
			end := strings.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			word, line = line[:end], line[end:]
		}
		if msg != "" {
			return msg
		}
		if line != "" && line[0] != ' ' && line[0] != '\t' {
			return fmt.Sprintf("no space behind the quoted word %.40q", word)
		}
		c.Args = append(c.Args, word)
	}
	return ""
}

var escapes = map[byte]byte{'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', '"': '"', '\'': '\'', '\\': '\\', '?': '?'}

// doubleQuoted reads up to the closing quote. Escapes are those of C.
func doubleQuoted(s string) (word, rest, msg string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], ""
		case '\\':
			n, c, ok := escape(s[i+1:])
			if !ok {
				return "", "", fmt.Sprintf("unknown escape %.4q in double quotes: write two backslashes for one", s[i:])
			}
			b.WriteByte(c)
			i += n
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", "a double quote is not closed"
}

// escape reads what follows a backslash: a letter, up to three octal digits, or
// x and two hex digits.
func escape(s string) (n int, c byte, ok bool) {
	if s == "" {
		return 0, 0, false
	}
	if c, ok := escapes[s[0]]; ok {
		return 1, c, true
	}
	if s[0] == 'x' && len(s) >= 3 {
		v, err := strconv.ParseUint(s[1:3], 16, 8)
		return 3, byte(v), err == nil
	}
	for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	v, err := strconv.ParseUint(s[:n], 8, 8)
	return n, byte(v), err == nil
}

// Problem is a command that is going to fail.
type Problem struct {
	Script string
	Line   int
	Word   string
	Reason string
}

func (p Problem) String() string {
	return fmt.Sprintf("plan script %s line %d: %s", p.Script, p.Line, p.Reason)
}

// Check lists the commands that fail for certain when they are reached: words
// that do not exist and calls with the wrong number of arguments. It does not
// see commands that the shell makes (<!). A problem is no error: some plans
// fail on purpose, and one with Ignore set goes on.
func Check(p *Plan) []Problem {
	var list []Problem
	for _, c := range p.Commands {
		if c.Kind != Word {
			continue
		}
		if err := checkWord(c.Args); err != nil {
			list = append(list, Problem{Script: c.Script, Line: c.Line, Word: c.Args[0], Reason: err.Error()})
		}
	}
	return list
}
