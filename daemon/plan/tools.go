package plan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/interp"
)

// toolCall is one call of a tool: a command that plan scripts use and that the
// shell library has not.
type toolCall struct {
	ctx  context.Context
	args []string
	dir  string
	in   io.Reader
	out  io.Writer
}

// toolbox holds the tools. Each returns its exit status.
var toolbox = map[string]func(toolCall) (int, error){
	"basename": func(t toolCall) (int, error) { return t.onName(path.Base) },
	"dirname":  func(t toolCall) (int, error) { return t.onName(path.Dir) },
	"cut":      toolCall.cut,
	"date":     toolCall.date,
	"grep":     toolCall.grep,
	"head":     toolCall.head,
	"seq":      toolCall.seq,
	"sleep":    toolCall.sleep,
	"unix2dos": toolCall.unix2dos,
	"wc":       toolCall.wc,
}

// tools is the middleware that runs the toolbox. It also lets scripts call any
// command by its full path.
func tools(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		for _, dir := range []string{"/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/"} {
			if name, ok := strings.CutPrefix(args[0], dir); ok {
				args = append([]string{name}, args[1:]...)
				break
			}
		}
		do := toolbox[args[0]]
		if do == nil {
			return next(ctx, args)
		}
		hc := interp.HandlerCtx(ctx)
		t := toolCall{ctx: ctx, args: args[1:], dir: hc.Dir, in: hc.Stdin, out: hc.Stdout}
		if hc.Stdin == nil {
			t.in = strings.NewReader("")
		}
		status, err := do(t)
		if err != nil {
			fmt.Fprintf(hc.Stderr, "%s: %v\n", args[0], err)
			status = max(status, 1)
		}
		if status != 0 {
			return interp.ExitStatus(status)
		}
		return nil
	}
}

func (t toolCall) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(t.dir, name)
}

// files calls fn for each file, or for the standard input if there is none.
func (t toolCall) files(names []string, fn func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		return fn("", t.in)
	}
	for _, name := range names {
		f, err := openNull(interp.DefaultOpenHandler())(t.ctx, t.path(name), 0, 0)
		if err != nil {
			return err
		}
		err = fn(name, &ctxReader{t.ctx, f})
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lines calls fn for each line of r, without its end.
func lines(r io.Reader, fn func(line string) error) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			if ferr := fn(strings.TrimSuffix(line, "\n")); ferr != nil {
				return ferr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// flags splits off single-letter flags; those in withValue take one. -5 is the
// flag n with the value 5.
func flags(args []string, known, withValue string) (map[byte]string, []string, error) {
	set := map[byte]string{}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0][1:]
		args = args[1:]
		if arg == "-" {
			break
		}
		if strings.Contains(withValue, "n") && strings.Trim(arg, "0123456789") == "" {
			set['n'] = arg
			continue
		}
		for arg != "" {
			f := arg[0]
			arg = arg[1:]
			switch {
			case strings.IndexByte(withValue, f) >= 0:
				if arg == "" && len(args) > 0 {
					arg, args = args[0], args[1:]
				}
				set[f], arg = arg, ""
			case strings.IndexByte(known, f) >= 0:
				set[f] = "set"
			default:
				return nil, nil, fmt.Errorf("option -%c is not supported here", f)
			}
		}
	}
	return set, args, nil
}

func (t toolCall) onName(fn func(string) string) (int, error) {
	if len(t.args) == 0 {
		return 1, errors.New("a name is missing")
	}
	name := fn(t.args[0])
	if len(t.args) > 1 && name != t.args[1] {
		name = strings.TrimSuffix(name, t.args[1])
	}
	_, err := fmt.Fprintln(t.out, name)
	return 0, err
}

// date prints the time in UTC; of formats it knows the common letters.
func (t toolCall) date() (int, error) {
	now := time.Now().UTC()
	form := "+%a %b %e %H:%M:%S UTC %Y"
	if len(t.args) > 0 && strings.HasPrefix(t.args[len(t.args)-1], "+") {
		form = t.args[len(t.args)-1]
	}
	layouts := strings.NewReplacer("%Y", "2006", "%m", "01", "%d", "02", "%H", "15", "%M", "04", "%S", "05", "%y", "06",
		"%a", "Mon", "%A", "Monday", "%b", "Jan", "%B", "January", "%e", "_2", "%F", "2006-01-02", "%T", "15:04:05", "%Z", "MST", "%z", "-0700", "%N", "000000000", "%p", "PM", "%I", "03")
	var b strings.Builder
	for form := form[1:]; form != ""; {
		switch {
		case form[0] != '%' || len(form) == 1:
			b.WriteByte(form[0])
			form = form[1:]
			continue
		case form[1] == 's':
			fmt.Fprint(&b, now.Unix())
		case form[1] == '%':
			b.WriteByte('%')
		default:
			b.WriteString(now.Format(layouts.Replace(form[:2])))
		}
		form = form[2:]
	}
	_, err := fmt.Fprintln(t.out, b.String())
	return 0, err
}

func (t toolCall) sleep() (int, error) {
	if len(t.args) != 1 {
		return 1, errors.New("give one time, such as 5 or 0.5 or 2m")
	}
	d, err := time.ParseDuration(t.args[0])
	if err != nil {
		d, err = time.ParseDuration(t.args[0] + "s")
	}
	if err != nil {
		return 1, fmt.Errorf("time %q is not understood", t.args[0])
	}
	select {
	case <-t.ctx.Done():
		return 1, t.ctx.Err()
	case <-time.After(d):
		return 0, nil
	}
}

func (t toolCall) seq() (int, error) {
	nums := make([]int64, len(t.args))
	for i, a := range t.args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return 1, fmt.Errorf("%q is no whole number", a)
		}
		nums[i] = n
	}
	first, step, last := int64(1), int64(1), int64(0)
	switch len(nums) {
	case 1:
		last = nums[0]
	case 2:
		first, last = nums[0], nums[1]
	case 3:
		first, step, last = nums[0], nums[1], nums[2]
	default:
		return 1, errors.New("usage: seq [FIRST [STEP]] LAST")
	}
	if step == 0 {
		return 1, errors.New("the step is 0")
	}
	for n := first; (step > 0 && n <= last) || (step < 0 && n >= last); n += step {
		if _, err := fmt.Fprintln(t.out, n); err != nil {
			return 1, err
		}
		if (step > 0 && n > n+step) || (step < 0 && n < n+step) || t.ctx.Err() != nil {
			break // the number ran over
		}
	}
	return 0, t.ctx.Err()
}

func (t toolCall) head() (int, error) {
	set, names, err := flags(t.args, "", "n")
	if err != nil {
		return 1, err
	}
	n := 10
	if v, ok := set['n']; ok {
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			return 1, fmt.Errorf("%q is no number of lines", v)
		}
	}
	enough := errors.New("enough")
	err = t.files(names, func(_ string, r io.Reader) error {
		left := n
		err := lines(r, func(line string) error {
			if left--; left < 0 {
				return enough
			}
			_, err := fmt.Fprintln(t.out, line)
			return err
		})
		if err == enough {
			return nil
		}
		return err
	})
	return 0, err
}

func (t toolCall) wc() (int, error) {
	set, names, err := flags(t.args, "lwcm", "")
	if err != nil {
		return 1, err
	}
	return 0, t.files(names, func(name string, r io.Reader) error {
		var l, w, c int64
		inWord := false
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			for _, b := range buf[:n] {
				space := b == ' ' || b >= '\t' && b <= '\r'
				if !space && !inWord {
					w++
				}
				inWord = !space
				if b == '\n' {
					l++
				}
			}
			c += int64(n)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		var cols []string
		for _, col := range []struct {
			flag string
			n    int64
		}{{"l", l}, {"w", w}, {"cm", c}} {
			_, a := set[col.flag[0]]
			_, b := set[col.flag[len(col.flag)-1]]
			if len(set) == 0 || a || b {
				cols = append(cols, strconv.FormatInt(col.n, 10))
			}
		}
		if name != "" {
			cols = append(cols, name)
		}
		_, err := fmt.Fprintln(t.out, strings.Join(cols, " "))
		return err
	})
}

// cut knows -d and -f, and -c.
func (t toolCall) cut() (int, error) {
	set, names, err := flags(t.args, "s", "dfc")
	if err != nil {
		return 1, err
	}
	delim, ok := set['d']
	if !ok {
		delim = "\t"
	}
	list, byField := set['f']
	if !byField {
		list = set['c']
	}
	want, err := ranges(list)
	if err != nil {
		return 1, err
	}
	return 0, t.files(names, func(_ string, r io.Reader) error {
		return lines(r, func(line string) error {
			parts := strings.Split(line, "")
			sep := ""
			if byField {
				sep = delim
				if !strings.Contains(line, delim) {
					_, err := fmt.Fprintln(t.out, line)
					return err
				}
				parts = strings.Split(line, delim)
			}
			var kept []string
			for i, p := range parts {
				if want(i + 1) {
					kept = append(kept, p)
				}
			}
			_, err := fmt.Fprintln(t.out, strings.Join(kept, sep))
			return err
		})
	})
}

// ranges reads a list such as 1,3-5,7-.
func ranges(list string) (func(int) bool, error) {
	type span struct{ from, to int }
	var spans []span
	for _, part := range strings.Split(list, ",") {
		a, b, isRange := strings.Cut(part, "-")
		s := span{1, 1 << 30}
		var err error
		if a != "" {
			s.from, err = strconv.Atoi(a)
		}
		if !isRange {
			s.to = s.from
		} else if b != "" && err == nil {
			s.to, err = strconv.Atoi(b)
		}
		if err != nil || part == "" || part == "-" || s.from < 1 {
			return nil, fmt.Errorf("list %q is not understood", list)
		}
		spans = append(spans, s)
	}
	return func(n int) bool {
		for _, s := range spans {
			if n >= s.from && n <= s.to {
				return true
			}
		}
		return false
	}, nil
}

// grep takes Go's regular expressions, with the \( \| \) of basic ones turned.
func (t toolCall) grep() (int, error) {
	set, rest, err := flags(t.args, "ivqcnEFwoxhsl", "e")
	if err != nil {
		return 2, err
	}
	pattern, ok := set['e']
	if !ok {
		if len(rest) == 0 {
			return 2, errors.New("a pattern is missing")
		}
		pattern, rest = rest[0], rest[1:]
	}
	has := func(f byte) bool { _, ok := set[f]; return ok }
	re, err := grepPattern(pattern, has)
	if err != nil {
		return 2, err
	}
	found, count := false, 0
	err = t.files(rest, func(name string, r io.Reader) error {
		number, inFile := 0, false
		err := lines(r, func(line string) error {
			number++
			if re.MatchString(line) == has('v') {
				return nil
			}
			found, inFile = true, true
			count++
			if has('q') || has('c') || has('l') {
				return nil
			}
			prefix := ""
			if len(rest) > 1 && !has('h') {
				prefix = name + ":"
			}
			if has('n') {
				prefix += strconv.Itoa(number) + ":"
			}
			shown := []string{line}
			if has('o') {
				shown = re.FindAllString(line, -1)
			}
			for _, s := range shown {
				if _, err := fmt.Fprintln(t.out, prefix+s); err != nil {
					return err
				}
			}
			return nil
		})
		if has('l') && inFile {
			fmt.Fprintln(t.out, name)
		}
		return err
	})
	if has('c') && err == nil {
		_, err = fmt.Fprintln(t.out, count)
	}
	switch {
	case err != nil:
		return 2, err
	case !found:
		return 1, nil
	}
	return 0, nil
}

func grepPattern(p string, has func(byte) bool) (*regexp.Regexp, error) {
	switch {
	case has('F'):
		p = regexp.QuoteMeta(p)
	case !has('E'):
		p = basicPattern(p)
	}
	if has('x') {
		p = "^(?:" + p + ")$"
	}
	if has('w') {
		p = `\b(?:` + p + `)\b`
	}
	if has('i') {
		p = "(?i)" + p
	}
	return regexp.Compile(p)
}

// basicPattern turns a POSIX basic regular expression into an extended one: in
// it \( \) \{ \} \| \+ \? are special and the bare ones are not.
func basicPattern(p string) string {
	var b strings.Builder
	inSet := false
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case inSet:
			inSet = c != ']'
			b.WriteByte(c)
		case c == '[':
			inSet = true
			b.WriteByte(c)
		case c == '\\' && i+1 < len(p) && strings.IndexByte("(){}|+?", p[i+1]) >= 0:
			i++
			b.WriteByte(p[i])
		case c == '\\' && i+1 < len(p):
			b.WriteString(p[i : i+2])
			i++
		case strings.IndexByte("(){}|+?", c) >= 0, c == '*' && i == 0:
			b.WriteString(`\` + string(c))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unix2dos gives the lines of files the ends that Windows wants.
func (t toolCall) unix2dos() (int, error) {
	for _, name := range t.args {
		if strings.HasPrefix(name, "-") {
			continue // only about how much it says
		}
		if err := t.rewrite(name); err != nil {
			return 1, err
		}
	}
	return 0, nil
}

// maxRewrite bounds the files that are rewritten in memory, in bytes.
const maxRewrite = 16 << 20

func (t toolCall) rewrite(name string) error {
	var text []byte
	err := t.files([]string{name}, func(_ string, r io.Reader) (err error) {
		text, err = io.ReadAll(io.LimitReader(r, maxRewrite+1))
		return err
	})
	if err != nil {
		return err
	}
	if len(text) > maxRewrite {
		return fmt.Errorf("%s: larger than %d bytes", name, maxRewrite)
	}
	unix := strings.ReplaceAll(string(text), "\r\n", "\n")
	return os.WriteFile(t.path(name), []byte(strings.ReplaceAll(unix, "\n", "\r\n")), 0o644)
}
