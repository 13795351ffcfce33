package main

import "context"

// hardware measures how long a module reads what is in it, and how long after the
// kernel's event a disk that was plugged in is in the inventory.
func (b *bench) hardware(ctx context.Context, f figures) error {
	return b.tests(ctx, f, "baystream/daemon/inventory", "TestBenchInVM")
}

// hardwareRules make its rows.
var hardwareRules = []rule{
	{what: "hardware read", ours: "hw-probe-ms", unit: "ms"},
	{what: "hot-plugged disk in the inventory", ours: "hotplug-ms", unit: "ms", bound: 1000},
}
