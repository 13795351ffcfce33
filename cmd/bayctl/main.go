// Bayctl is the administrator's tool (package internal/bayctl).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"baystream/internal/bayctl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bayctl.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bayctl:", err)
		os.Exit(1)
	}
}
