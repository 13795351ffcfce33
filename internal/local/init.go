package local

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"
)

// AskInit sends one command to the first process (package comment of init/)
// and returns its answer, a JSON object.
func AskInit(socket, command string) ([]byte, error) {
	conn, err := net.DialTimeout("unix", socket, 2*time.Second)
	if err != nil {
		return nil, fmt.Errorf("the first process does not answer: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(conn, strings.ReplaceAll(command, "\n", " ")); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	return bytes.TrimSpace(line), err
}
