// Package orders is what the host side of vmtest tells the guest side.
package orders

// Orders say what the guest does; the host packs them as /vmtest.json.
type Orders struct {
	Modules []string // loaded in order, with what they need; parameters behind a space
	Args    []string // of the test binary
	Env     []string // beside BAYSTREAM_IN_VM=1
}
