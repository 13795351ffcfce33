package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const volumes = 32

// ram has volumes exported in the way an administrator does, and measures
// memory when they are.
func ram(ctx context.Context, a *appliance) error {
	if err := sayMemory("idle"); err != nil {
		return err
	}
	if err := a.setUp(ctx); err != nil {
		return err
	}
	if err := deploy(ctx, a, volumes); err != nil {
		return err
	}
	luns, err := filepath.Glob("/sys/kernel/config/target/iscsi/*/tpgt_1/lun/lun_0")
	if err != nil {
		return err
	}
	if len(luns) != volumes {
		return fmt.Errorf("%d LUNs are exported, want %d", len(luns), volumes)
	}
	time.Sleep(5 * time.Second) // what was freed returns to the kernel
	if err := sayMemory("ram"); err != nil {
		return err
	}
	for _, p := range []struct{ name, file string }{{"pid1", "/proc/1"}, {"baystreamd", ""}, {"guest", "/proc/self"}} {
		if p.file == "" {
			if p.file, err = process(p.name); err != nil {
				return err
			}
		}
		m, err := memory(p.file + "/status")
		if err != nil {
			return err
		}
		say("bench rss-%s-kib %d", p.name, m["VmRSS"])
		say("bench anon-%s-kib %d", p.name, m["RssAnon"])
	}
	say("bench luns %d", len(luns))
	return nil
}

// deploy makes a golden image, a plan, n servers, and a profile for each.
func deploy(ctx context.Context, a *appliance, n int) error {
	golden := make([]byte, 16<<20)
	copy(golden[8<<20:], "baystream benchmark")
	t, err := a.work(ctx, "POST", "/rest/golden-images?name=bench", golden)
	if err != nil {
		return err
	}
	var build, plan struct {
		URI string `json:"uri"`
	}
	err = a.do(ctx, "POST", "/rest/build-plans", map[string]any{"type": "OeBuildPlanV5", "name": "bench", "oeBuildPlanType": "deploy"}, &build)
	if err != nil {
		return err
	}
	err = a.do(ctx, "POST", "/rest/deployment-plans", map[string]any{
		"type": "OEDeploymentPlanV5", "name": "bench", "goldenImageURI": t.Resource.URI, "oeBuildPlanURI": build.URI}, &plan)
	if err != nil {
		return err
	}
	var tasks []task
	for n := range n {
		var hardware struct {
			URI string `json:"uri"`
		}
		err := a.do(ctx, "POST", "/rest/server-hardware", map[string]any{
			"name": fmt.Sprint("server ", n), "serialNumber": fmt.Sprint("BENCH", n), "uuid": fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
			"macs": []string{fmt.Sprintf("02:00:00:00:01:%02x", n)}, "frame": "VF0001", "position": n + 1,
		}, &hardware)
		if err != nil {
			return err
		}
		var t task
		err = a.do(ctx, "POST", "/rest/server-profiles", map[string]any{
			"name": fmt.Sprint("bench ", n), "serverHardwareUri": hardware.URI,
			"osDeploymentSettings": map[string]any{"osDeploymentPlanUri": plan.URI},
		}, &t)
		if err != nil {
			return err
		}
		tasks = append(tasks, t)
	}
	for _, t := range tasks {
		if _, err := a.wait(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// where are the lines of /proc/meminfo that tell where memory went.
var where = []string{"MemFree", "Cached", "Shmem", "Unevictable", "AnonPages", "Slab", "SUnreclaim", "KernelStack", "PageTables", "Percpu", "VmallocUsed"}

// sayMemory reports what is used, and where it went.
func sayMemory(prefix string) error {
	m, err := memory("/proc/meminfo")
	if err != nil {
		return err
	}
	if b, err := os.ReadFile("/proc/sys/vm/min_free_kbytes"); err == nil {
		say("bench %s-min-free-kib %s", prefix, bytes.TrimSpace(b))
	}
	say("bench %s-used-kib %d", prefix, m["MemTotal"]-m["MemAvailable"])
	for _, name := range where {
		say("bench %s-%s-kib %d", prefix, name, m[name])
	}
	return nil
}
