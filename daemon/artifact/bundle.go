package artifact

import (
	"archive/zip"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits bounds what a bundle may hold. Zero fields take the default.
type Limits struct {
	Entries  int   // entries in the zip; default 20 000
	JSON     int64 // bytes of one description, expanded; default 4 MiB
	AllJSON  int64 // bytes of all descriptions together; default 128 MiB
	Payload  int64 // bytes of one golden image's file; default 1 TiB
	MaxRatio int64 // expanded to packed size of an entry over 1 MiB; default 200
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	if l.Entries == 0 {
		l.Entries = 20000
	}
	def(&l.JSON, 4<<20)
	def(&l.AllJSON, 128<<20)
	def(&l.Payload, 1<<40)
	def(&l.MaxRatio, 200)
	return l
}

// BundleReader reads bundles under given limits. File is the name to use in
// errors, such as that of the uploaded file.
type BundleReader struct {
	File   string
	Limits Limits
}

// ReadBundle reads a bundle under the default limits. See BundleReader.Read.
func ReadBundle(ctx context.Context, r io.ReaderAt, size int64) (*Bundle, error) {
	return BundleReader{}.Read(ctx, r, size)
}

// Read reads the bundle in the size bytes of r. Every entry has been read once
// and has met its checksum when it returns without error; the golden images
// are then read from r through their Open, so r must outlive the Bundle.
func (br BundleReader) Read(ctx context.Context, r io.ReaderAt, size int64) (*Bundle, error) {
	b := &bundleRead{limits: br.Limits.withDefaults(), object: "bundle"}
	if br.File != "" {
		b.object = "bundle " + br.File
	}
	if err := b.index(r, size); err != nil {
		return nil, err
	}
	if err := b.manifest(); err != nil {
		return nil, err
	}
	if err := b.sums(); err != nil {
		return nil, err
	}
	for _, f := range b.files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := b.entry(ctx, f); err != nil {
			return nil, err
		}
	}
	if err := b.payloads(); err != nil {
		return nil, err
	}
	if err := b.uniqueNames(); err != nil {
		return nil, err
	}
	return &b.out, nil
}

// bundleRead is the state of one Read.
type bundleRead struct {
	limits   Limits
	object   string
	files    []*zip.File
	byName   map[string]*zip.File
	sumFile  string
	newHash  func() hash.Hash
	want     map[string]string
	jsonRead int64
	out      Bundle
}

const exportAgain = "export the bundle again on the appliance that made it"

func (b *bundleRead) fail(kind error, entry, reason, remedy string, err error) error {
	return &Error{Kind: kind, Object: b.object, Entry: entry, Reason: reason, Remedy: remedy, Err: err}
}

// index opens the zip and checks everything that needs no contents.
func (b *bundleRead) index(r io.ReaderAt, size int64) error {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return b.fail(ErrCorrupt, "", "not a readable zip", "send the file again, unchanged", err)
	}
	if len(z.File) > b.limits.Entries {
		return b.fail(ErrTooLarge, "", fmt.Sprintf("%d entries, limit %d", len(z.File), b.limits.Entries), "split it into several bundles", nil)
	}
	b.files, b.byName = z.File, map[string]*zip.File{}
	for _, f := range z.File {
		if reason := unsafeEntry(f); reason != "" {
			return b.fail(ErrUnsafe, f.Name, reason, "a bundle holds plain files in no folder; pack it again that way", nil)
		}
		if b.byName[f.Name] != nil {
			return b.fail(ErrDuplicate, f.Name, "two entries of this name", exportAgain, nil)
		}
		b.byName[f.Name] = f
		if reason := b.bomb(f); reason != "" {
			return b.fail(ErrTooLarge, f.Name, reason, "check where the bundle comes from", nil)
		}
	}
	return b.overlap()
}

// unsafeEntry says why an entry must not be touched, or nothing.
func unsafeEntry(f *zip.File) string {
	switch n := f.Name; {
	case n == "":
		return "entry without a name"
	case !utf8.ValidString(n) || strings.ContainsFunc(n, unicode.IsControl):
		return "control characters or bad UTF-8 in the name"
	case strings.ContainsAny(n, `/\`), n == ".", n == "..":
		return "name leads into a folder"
	case len(n) > 255:
		return "name longer than 255 bytes"
	case f.Mode().IsDir() || f.Mode()&fs.ModeType != 0:
		return "not a plain file but " + f.Mode().Type().String()
	case f.Flags&1 != 0:
		return "encrypted"
	}
	return ""
}

// bomb says which limit an entry's header alone breaks, or nothing. Entries
// that lie about their size are stopped while they are read.
func (b *bundleRead) bomb(f *zip.File) string {
	limit := int64(b.limits.Payload)
	if described(f.Name) {
		limit = b.limits.JSON
	}
	switch n := f.UncompressedSize64; {
	case n > uint64(limit):
		return fmt.Sprintf("expands to %d bytes, limit %d", n, limit)
	case n > 1<<20 && n/max(f.CompressedSize64, 1) > uint64(b.limits.MaxRatio):
		return fmt.Sprintf("expands %d times, limit %d", n/max(f.CompressedSize64, 1), b.limits.MaxRatio)
	}
	return ""
}

// overlap refuses entries that share bytes, as small bombs do. It also meets
// the header before each entry, which some tools write wrong.
func (b *bundleRead) overlap() error {
	type span struct {
		from, to int64
		name     string
	}
	spans := make([]span, 0, len(b.files))
	for _, f := range b.files {
		off, err := f.DataOffset()
		if err != nil {
			return b.fail(ErrCorrupt, f.Name, "header before the entry is damaged", "send the file again, unchanged; if it stays so, "+exportAgain, err)
		}
		spans = append(spans, span{off, off + int64(f.CompressedSize64), f.Name})
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i].from < spans[j].from })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return b.fail(ErrUnsafe, spans[i].name, "shares bytes with "+spans[i-1].name, "check where the bundle comes from", nil)
		}
	}
	return nil
}

// described tells the small entries, which are held in memory, from payloads.
func described(name string) bool {
	return name == manifestName || name == sha256Name || name == sha1Name || entryKind(name) != ""
}

// entryKind is planscript, buildplan, deploymentplan, goldenimage or nothing.
func entryKind(name string) string {
	for _, k := range []string{"planscript", "buildplan", "deploymentplan", "goldenimage"} {
		if strings.HasSuffix(name, "_"+k+".json") {
			return k
		}
	}
	return ""
}

func (b *bundleRead) manifest() error {
	f := b.byName[manifestName]
	if f == nil {
		return b.fail(ErrMissing, manifestName, "not in the zip", "this is not an artifact bundle; upload disk images as golden images", nil)
	}
	data, err := b.small(f, nil)
	if err != nil {
		return err
	}
	head, err := parseManifest(data)
	if err != nil {
		return b.fail(ErrCorrupt, manifestName, "cannot be read", exportAgain, err)
	}
	b.out = head
	if b.object == "bundle" {
		b.object = "bundle " + head.Name
	}
	return nil
}

func (b *bundleRead) sums() error {
	size := sha256.Size
	b.sumFile, b.newHash = sha256Name, sha256.New
	if b.byName[sha256Name] == nil {
		b.sumFile, b.newHash, size = sha1Name, sha1.New, sha1.Size
	}
	f := b.byName[b.sumFile]
	if f == nil {
		return b.fail(ErrMissing, sha256Name, "not in the zip", exportAgain, nil)
	}
	data, err := b.small(f, nil)
	if err != nil {
		return err
	}
	if b.want, err = parseSums(data, b.sumFile, size); err != nil {
		return b.fail(ErrCorrupt, b.sumFile, "cannot be read", exportAgain, err)
	}
	for name := range b.want {
		if b.byName[name] == nil {
			return b.fail(ErrMissing, name, "has a checksum but is not in the zip", exportAgain, nil)
		}
	}
	return nil
}

// small reads an entry that is held in memory.
func (b *bundleRead) small(f *zip.File, h hash.Hash) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, b.fail(ErrCorrupt, f.Name, "cannot be unpacked", "send the file again, unchanged", err)
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, b.limits.JSON+1))
	if err != nil {
		return nil, b.fail(ErrCorrupt, f.Name, "cannot be unpacked", "send the file again, unchanged", err)
	}
	if b.jsonRead += int64(len(data)); int64(len(data)) > b.limits.JSON || b.jsonRead > b.limits.AllJSON {
		return nil, b.fail(ErrTooLarge, f.Name, fmt.Sprintf("descriptions larger than %d bytes, or %d together", b.limits.JSON, b.limits.AllJSON), "check where the bundle comes from", nil)
	}
	if h != nil {
		h.Write(data)
	}
	return data, nil
}

// entry checks one entry against its sum and, if it describes an artifact,
// adds that to the bundle.
func (b *bundleRead) entry(ctx context.Context, f *zip.File) error {
	if f.Name == b.sumFile {
		return nil
	}
	want, ok := b.want[f.Name]
	if !ok {
		return b.fail(ErrChecksum, f.Name, "has no checksum in "+b.sumFile, exportAgain, nil)
	}
	h := b.newHash()
	if !described(f.Name) {
		if err := b.payload(ctx, f, h); err != nil {
			return err
		}
		return b.compare(f.Name, want, h)
	}
	data, err := b.small(f, h)
	if err != nil {
		return err
	}
	if err := b.compare(f.Name, want, h); err != nil {
		return err
	}
	if kind := entryKind(f.Name); kind != "" {
		return b.add(kind, f.Name, data)
	}
	return nil
}

func (b *bundleRead) compare(name, want string, h hash.Hash) error {
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return b.fail(ErrChecksum, name, fmt.Sprintf("contents have sum %s, %s says %s", got, b.sumFile, want), "send the file again; if it stays so, "+exportAgain, nil)
	}
	return nil
}

func (b *bundleRead) payload(ctx context.Context, f *zip.File, h hash.Hash) error {
	rc, err := f.Open()
	if err != nil {
		return b.fail(ErrCorrupt, f.Name, "cannot be unpacked", "send the file again, unchanged", err)
	}
	defer rc.Close()
	n, err := io.CopyBuffer(h, &limitedReader{ctx: ctx, r: rc, left: b.limits.Payload}, make([]byte, copyBuffer))
	switch {
	case errors.Is(err, ErrTooLarge):
		return b.fail(ErrTooLarge, f.Name, fmt.Sprintf("expands to more than %d bytes", n), "check where the bundle comes from", nil)
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return b.fail(ErrCorrupt, f.Name, "cannot be unpacked", "send the file again, unchanged", err)
	}
	return nil
}

func (b *bundleRead) add(kind, entry string, data []byte) error {
	id := strings.TrimSuffix(entry, "_"+kind+".json")
	var err error
	var name string
	switch kind {
	case "planscript":
		var v PlanScript
		err = json.Unmarshal(data, &v)
		v.ID, name = firstOf(v.ID, id), v.Name
		b.out.PlanScripts = append(b.out.PlanScripts, v)
	case "buildplan":
		var v BuildPlan
		err = json.Unmarshal(data, &v)
		v.ID, name = firstOf(v.ID, id), v.Name
		b.out.BuildPlans = append(b.out.BuildPlans, v)
	case "deploymentplan":
		var v DeploymentPlan
		err = json.Unmarshal(data, &v)
		v.ID, name = firstOf(v.ID, id), v.Name
		b.out.DeploymentPlans = append(b.out.DeploymentPlans, v)
	case "goldenimage":
		var v GoldenImage
		err = json.Unmarshal(data, &v)
		v.ID, name = firstOf(v.ID, id), v.Name
		b.out.GoldenImages = append(b.out.GoldenImages, v)
	}
	if err != nil {
		return b.fail(ErrCorrupt, entry, "not the JSON of a "+kind, exportAgain, err)
	}
	if name == "" {
		return b.fail(ErrCorrupt, entry, "describes a "+kind+" without a name", exportAgain, nil)
	}
	return nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// payloads gives every golden image its contents: the entry of its name.
func (b *bundleRead) payloads() error {
	used := map[string]bool{}
	for i := range b.out.GoldenImages {
		g := &b.out.GoldenImages[i]
		f := b.byName[g.Name]
		if f == nil || described(g.Name) {
			return b.fail(ErrMissing, g.ID+"_goldenimage.json", fmt.Sprintf("the image %q itself is not in the zip", g.Name), exportAgain+", with its golden image", nil)
		}
		g.PayloadSize, g.Open = int64(f.UncompressedSize64), f.Open
		used[g.Name] = true
	}
	for _, f := range b.files {
		if !described(f.Name) && !used[f.Name] {
			b.out.Ignored = append(b.out.Ignored, f.Name)
		}
	}
	return nil
}

func (b *bundleRead) uniqueNames() error {
	seen := map[string]bool{}
	check := func(kind, name string) error {
		if key := kind + "\x00" + name; !seen[key] {
			seen[key] = true
			return nil
		}
		return b.fail(ErrDuplicate, name, "two artifacts of kind "+kind+" have this name or id", "rename one of them and export the bundle again", nil)
	}
	var errs []error
	for _, v := range b.out.PlanScripts {
		errs = append(errs, check("plan script", v.Name), check("plan script id", v.ID))
	}
	for _, v := range b.out.BuildPlans {
		errs = append(errs, check("build plan", v.Name), check("build plan id", v.ID))
	}
	for _, v := range b.out.DeploymentPlans {
		errs = append(errs, check("deployment plan", v.Name), check("deployment plan id", v.ID))
	}
	for _, v := range b.out.GoldenImages {
		errs = append(errs, check("golden image", v.Name), check("golden image id", v.ID))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// limitedReader ends with ErrTooLarge beyond left bytes, and with the context.
type limitedReader struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, ErrTooLarge
	}
	return n, err
}
