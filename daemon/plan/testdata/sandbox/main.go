// Command sandbox is the program that the tests of package plan start sandboxes
// from: a test binary may be linked dynamically, which does not do.
package main

import (
	"os"

	"baystream/daemon/plan"
)

func main() {
	plan.MaybeSandbox()
	os.Exit(1) // not started as a sandbox
}
