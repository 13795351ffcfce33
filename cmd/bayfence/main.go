// Command bayfence is DRBD's fence handler (usermode_helper): the kernel starts
// it with the name of an event and of a resource.
package main

import (
	"context"
	"fmt"
	"os"

	"baystream/daemon/group/fence"
)

func main() { os.Exit(run(os.Args)) }

// run answers fence-peer; of other events the kernel only tells.
func run(args []string) int {
	if len(args) != 3 || args[1] != "fence-peer" {
		return 0
	}
	won, err := fence.Ask(context.Background(), fence.Socket, args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bayfence:", err)
	}
	if won {
		return fence.ExitWon
	}
	return fence.ExitLost
}
