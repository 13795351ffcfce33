// Package scenario holds the frame tests that tell what the whole is for: an
// appliance with real parts inside, servers that boot from it, and what may
// befall both. It has no code of its own but a small program for the tests'
// appliance, see agent.
//
// One frame serves most of the stories, since a boot is what costs; they are
// told in order, each as a subtest that can be run alone (go test -run
// TestFrameStreams/DaemonKilled).
package scenario
