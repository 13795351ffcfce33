//go:build race

package sim

// The race detector makes a run eight times as long, and there is one goroutine
// in each: a few seeds show that.
func init() { raceDetector = true }
