package main

import "context"

// failover measures for how long a bond's traffic stops when the interconnect
// module in use fails, with its carrier or silently; beside the bonding driver's
// own link check (miimon 100 ms). A gap of 5 s means that it did not recover.
func (b *bench) failover(ctx context.Context, f figures) error {
	return b.tests(ctx, f, "baystream/netcfg", "TestBenchInVM")
}

// failoverRules make its rows.
var failoverRules = []rule{
	{what: "link failover gap, carrier lost", ours: "failover-carrier-probes", peer: "failover-carrier-miimon", against: "plain miimon", unit: "ms"},
	{what: "link failover gap, module silent", ours: "failover-silent-probes", peer: "failover-silent-miimon", against: "plain miimon (5000: never)", unit: "ms"},
	{what: "link failover gap, module silent", ours: "failover-silent-probes", unit: "ms", bound: 1000},
}
