package pair

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A healthy pair as A sees it: A owns group 1 and is primary of it, all in sync.
func serving() *View {
	return &View{
		Self: A, Standing: Member, Now: 10 * time.Minute,
		Votes:   Votes{Voters: 3, Quorum: true, Read: 10 * time.Minute},
		Partner: Partner{Heard: 10 * time.Minute},
		Groups: []Group{{
			Number: 1, Record: Record{Epoch: 7, Owner: A, Home: A}, Portal: true, Healthy: true,
			Report: Report{Intact: true, Settled: true, Usable: true, InSync: true},
			Volumes: []Volume{
				{ID: "v1", Primary: true, Disk: UpToDate, PeerDisk: UpToDate, PeerRole: RoleSecondary, Conn: Connected, Exported: true, Live: true},
				{ID: "v2", Primary: true, Disk: UpToDate, PeerDisk: UpToDate, PeerRole: RoleSecondary, Conn: Connected, Exported: true},
			},
		}},
	}
}

// standby is the same pair as B sees it.
func standby() *View {
	v := serving()
	v.Self = B
	g := &v.Groups[0]
	g.Portal = false
	g.Report.Primary = true
	for i := range g.Volumes {
		o := &g.Volumes[i]
		o.Primary, o.Exported, o.PeerRole = false, false, RolePrimary
	}
	return v
}

func (v *View) volumes(do func(*Volume)) *View {
	for i := range v.Groups[0].Volumes {
		do(&v.Groups[0].Volumes[i])
	}
	return v
}

func cut(o *Volume) { o.Conn, o.PeerDisk, o.PeerRole = Connecting, Unknown, RoleUnknown }

func freeze(o *Volume) { cut(o); o.Frozen, o.Asking = true, true }

// old is a memory in which everything that holds has held for long.
func old(v *View, intact bool) *Memory {
	m := new(Memory)
	long := *v
	long.Now = time.Second
	long.Standing = Member
	if long.Partner.Heard = long.Now; v.Now-v.Partner.Heard > HeardFor {
		long.Partner.Heard = -1
	}
	long.Votes.Read = long.Now
	long.Groups = append([]Group(nil), v.Groups...)
	long.Groups[0].Busy = true
	Plan(&long, m)
	m.Groups[1].Intact, m.Groups[1].Joined = intact, v.Groups[0].Volumes[0].Disk != Missing && v.Groups[0].Volumes[0].Disk != Consistent
	return m
}

func names(actions []Action) string {
	var s []string
	for _, a := range actions {
		s = append(s, strings.ReplaceAll(a.String(), " group 1", ""))
	}
	return strings.Join(s, "; ")
}

const takeover = "ForceDisconnect v1; ForceDisconnect v2; WinGrant; Promote v1 alone; Export v1; AddPortal; Announce; Tickle; " +
	"Promote v2 alone; Export v2; Connect v1; Connect v2"

func TestPlan(t *testing.T) {
	silent := func(v *View) *View { // its owner was lost three seconds ago
		v.Partner.Heard, v.Groups[0].Flushed = v.Now-3*time.Second, true
		return v
	}
	for _, tt := range []struct {
		name   string
		view   *View
		intact bool
		want   string
	}{
		{"healthy owner", serving(), true, ""},
		{"healthy standby", standby(), true, ""},
		{"frozen owner asks", serving().volumes(freeze), true, "WinGrant; AnswerWon v1; AnswerWon v2"},
		{"frozen without a handler", serving().volumes(func(o *Volume) { freeze(o); o.Asking = false }), true,
			"WinGrant; ResumeIO v1; ResumeIO v2"},
		{"frozen without votes withdraws the address only", func() *View {
			v := serving().volumes(freeze)
			v.Votes.Quorum = false
			return v
		}(), true, "RemovePortal"},
		{"frozen loser gets clean, in this order", func() *View {
			v := serving().volumes(freeze)
			v.Groups[0].Record.Survivor = B
			return v
		}(), true, "RemovePortal; AnswerLost v1; AnswerLost v2; DetachForce v1; DetachForce v2; ResumeIO v1; ResumeIO v2; " +
			"Unexport v1; Unexport v2; Demote v1; Demote v2; TakeDown v1; TakeDown v2"},
		{"silent owner is replaced", silent(standby().volumes(cut)), true, takeover},
		{"silent owner is fenced first where that can be", func() *View {
			v := silent(standby().volumes(cut))
			v.Partner.Fenceable = true
			return v
		}(), true, "PowerFence; " + takeover},
		{"owner without power is replaced before the mirror notices", func() *View {
			v := standby()
			v.Partner.Off = true
			return v
		}(), true, strings.Replace(takeover, "WinGrant", "Flush; WinGrant", 1)},
		{"an owner that is heard keeps its group", standby().volumes(cut), true, "Flush"},
		{"a standby that lost its owner flushes (50213)", standby().volumes(cut), true, "Flush"},
		{"an owner that holds the grant keeps its group", func() *View {
			v := silent(standby().volumes(func(o *Volume) { cut(o); o.Conn = StandAlone }))
			v.Groups[0].Record.Survivor, v.Partner.Heard = A, v.Now
			return v
		}(), false, "Outdate v1; Connect v1; Outdate v2; Connect v2"},
		{"no takeover without votes", func() *View {
			v := silent(standby().volumes(cut))
			v.Votes.Quorum = false
			return v
		}(), true, ""},
		{"no takeover with a copy from before the boot", silent(standby().volumes(func(o *Volume) { cut(o); o.Disk = Consistent })), false, ""},
		{"unless the administrator consents", func() *View {
			v := silent(standby().volumes(func(o *Volume) { cut(o); o.Disk = Consistent }))
			v.Groups[0].Consent = true
			return v
		}(), false, strings.Replace(takeover, "WinGrant", "WinGrant; ResetServers", 1)},
		{"an owner back from the dead resets servers", silent(serving().volumes(func(o *Volume) {
			cut(o)
			o.Primary, o.Exported, o.Disk = false, false, Consistent
		})), false, "RemovePortal"},
		{"a disk that failed: on record, then away", serving().volumes(func(o *Volume) { o.Disk = Diskless }), true, "YieldGrant"},
		{"and then away", func() *View {
			v := serving().volumes(func(o *Volume) { o.Disk = Diskless })
			v.Groups[0].Record.Survivor = B
			return v
		}(), true, "RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2; HandOver to B"},
		{"a disk that failed and nobody can be told", func() *View {
			v := serving().volumes(func(o *Volume) { o.Disk = Diskless })
			v.Votes.Quorum = false
			return v
		}(), true, "RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2"},
		{"the partner's disk failed", serving().volumes(func(o *Volume) { o.PeerDisk = Diskless }), true, "WinGrant"},
		{"a stuck disk is dropped, on record first", serving().volumes(func(o *Volume) { o.Stuck = 4 * time.Second }), true,
			"YieldGrant; DetachForce v1; DetachForce v2"},
		{"the grant goes back after the resync", func() *View {
			v := serving()
			v.Groups[0].Record.Survivor = A
			return v
		}(), true, "ClearGrant"},
		{"and not before the partner says so too", func() *View {
			v := serving()
			v.Groups[0].Record.Survivor = A
			v.Groups[0].Report.InSync = false
			return v
		}(), true, ""},
		{"home", func() *View { v := serving(); v.Groups[0].Record.Home = B; return v }(), true,
			"RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2; HandOver to B"},
		{"not home while the partner has not said that it is ready", func() *View {
			v := serving()
			v.Groups[0].Record.Home, v.Groups[0].Report.Intact = B, false
			return v
		}(), true, ""},
		{"a move that arrives", func() *View {
			v := standby().volumes(func(o *Volume) { o.PeerRole = RoleSecondary })
			v.Groups[0].Record.Owner, v.Groups[0].Report.Primary = B, false
			return v
		}(), true, "Promote v1; Export v1; AddPortal; Announce; Tickle; Promote v2; Export v2"},
		{"resyncs are bounded", func() *View {
			v := standby().volumes(func(o *Volume) { cut(o); o.Conn, o.Disk = StandAlone, Inconsistent })
			v.Groups[0].Record.Survivor = A
			third := v.Groups[0].Volumes[0]
			third.ID = "v3"
			v.Groups[0].Volumes = append(v.Groups[0].Volumes, third)
			return v
		}(), false, "Connect v1; Connect v2"},
		{"a rebooted copy keeps away from a frozen partner", func() *View {
			v := standby().volumes(func(o *Volume) { cut(o); o.Conn, o.Disk = StandAlone, Inconsistent })
			v.Groups[0].Record.Survivor, v.Groups[0].Report.Frozen = A, true
			return v
		}(), false, ""},
		{"a rebooted copy yields to an intact one and disowns", func() *View {
			v := standby().volumes(func(o *Volume) { cut(o); o.Conn, o.Disk = StandAlone, Missing })
			return v
		}(), false, "YieldGrant; BringUp v1 disowned; BringUp v2 disowned"},
		{"an orderly end hands over", func() *View { v := serving(); v.Stopping = true; return v }(), true,
			"RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2; HandOver to B"},
		{"an orderly end of the last one", func() *View {
			v := serving().volumes(cut)
			v.Groups[0].Record.Survivor, v.Stopping = A, true
			return v
		}(), true, "RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2; Finish"},
		// What the simulator found, by the seed that did.
		{"a holder whose leg failed keeps the grant from a partner without data (8503)", func() *View {
			v := standby().volumes(func(o *Volume) { o.Disk, o.PeerDisk = Diskless, Diskless })
			v.Groups[0].Record.Survivor = B
			v.Groups[0].Healthy = false
			return v
		}(), true, ""},
		{"and from one that it has not been in sync with (3498)", func() *View {
			v := standby().volumes(func(o *Volume) { o.Disk, o.PeerRole = Diskless, RoleSecondary })
			v.Groups[0].Record.Survivor, v.Groups[0].Report.Primary = B, false
			v.Groups[0].Healthy = false
			return v
		}(), true, ""},
		{"a holder that DRBD made a target yields", func() *View {
			v := standby().volumes(func(o *Volume) { o.Disk = Inconsistent })
			v.Groups[0].Record.Survivor = B
			return v
		}(), true, "YieldGrant"},
		{"no agreement with a holder whose leg is bad (12606)", func() *View {
			v := standby().volumes(func(o *Volume) { o.PeerRole, o.PeerDisk = RoleSecondary, Diskless })
			v.Groups[0].Record.Survivor, v.Groups[0].Report = A, Report{}
			return v
		}(), true, ""},
		{"a primary that the grant is not with stops when the partner's leg fails (12606)", func() *View {
			v := serving().volumes(func(o *Volume) { o.PeerDisk = Diskless })
			v.Groups[0].Record.Survivor = B
			return v
		}(), true, "RemovePortal; Unexport v1; Unexport v2; Demote v1; Demote v2"},
		{"both wanted to serve, the one that does says so (232)", func() *View {
			v := serving()
			v.Groups[0].Record.Owner = B
			return v
		}(), true, "HandOver to A"},
		{"a standby that holds the grant gives it back (171)", func() *View {
			v := standby()
			v.Groups[0].Record.Survivor = B
			return v
		}(), true, "ClearGrant"},
		{"thawed by the kernel without a grant (model)", serving().volumes(cut), true, "WinGrant"},
		{"a rebooted copy waits for an intact one that has not flushed yet (50213)", func() *View {
			v := standby().volumes(func(o *Volume) { cut(o); o.Conn, o.Disk = StandAlone, Consistent })
			v.Groups[0].Report.Settled = false
			return v
		}(), false, ""},
		{"quarantined", func() *View { v := serving(); v.Standing = Quarantined; return v }(), true, "Quarantine"},
		{"leader takes the service address", func() *View { v := serving(); v.Leader = A; return v }(), true, "HoldService"},
		{"nothing while busy", func() *View { v := serving().volumes(freeze); v.Groups[0].Busy = true; return v }(), true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := names(Plan(tt.view, old(tt.view, tt.intact)))
			if got != tt.want {
				t.Errorf("Plan:\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A takeover by silence alone waits out the time in which a partner behind a
// cut would still answer reads, and the minute after the last one.
func TestSilenceHasToLast(t *testing.T) {
	v := standby().volumes(cut)
	v.Groups[0].Flushed = true
	m := old(standby(), true)
	start := v.Now
	v.Partner.Heard = start
	first := time.Duration(-1)
	for ; v.Now < start+5*time.Second; v.Now += 50 * time.Millisecond {
		v.Votes.Read = v.Now
		if len(Plan(v, m)) > 0 {
			first = v.Now - start
			break
		}
	}
	if first < LossBound || first < SilentAfter || first > SilentAfter+time.Second {
		t.Errorf("taken over after %v, want about %v", first, SilentAfter)
	}
	m = old(standby(), true)
	m.Groups[1].Moved = since(start - 30*time.Second)
	for v.Now = start; v.Now < start+25*time.Second; v.Now += 50 * time.Millisecond {
		v.Votes.Read = v.Now
		if a := Plan(v, m); len(a) > 0 {
			t.Fatalf("30 s after the last failover, %v later: %v", v.Now-start, a)
		}
	}
}

// A grant whose epoch is new may have been yielded by a partner that is about
// to drop its legs: it is not cleared at once, though all looks in sync (23691).
func TestFreshGrantIsKept(t *testing.T) {
	v := standby()
	m := old(v, true)
	v.Groups[0].Record.Survivor = B
	v.Groups[0].Record.Epoch++
	if got := Plan(v, m); len(got) > 0 {
		t.Errorf("at once: %v", got)
	}
	v.Now += 2 * time.Second
	v.Votes.Read, v.Partner.Heard = v.Now, v.Now
	if got := names(Plan(v, m)); got != "ClearGrant" {
		t.Errorf("later: %v, want ClearGrant", got)
	}
}

// A planned move that did not come to its end is not repeated at once (29).
func TestMoveIsNotRepeatedAtOnce(t *testing.T) {
	v := serving()
	v.Groups[0].Record.Home = B
	m := old(v, true)
	if got := Plan(v, m); len(got) == 0 {
		t.Fatal("no move")
	}
	v.Now += time.Second
	v.Votes.Read, v.Partner.Heard = v.Now, v.Now
	if got := Plan(v, m); len(got) > 0 {
		t.Errorf("a second later: %v", got)
	}
}

// After a boot nobody knows when the last failover was: the minute counts from
// the first look (2710).
func TestNoFailoverBySilenceRightAfterBoot(t *testing.T) {
	v := standby()
	v.Now, v.Votes.Read, v.Partner.Heard = 20*time.Second, 20*time.Second, 20*time.Second
	m := new(Memory)
	Plan(v, m)
	v.volumes(cut)
	v.Groups[0].Flushed = true
	for ; v.Now < 75*time.Second; v.Now += 100 * time.Millisecond {
		v.Votes.Read = v.Now
		if got := Plan(v, m); len(got) > 0 {
			t.Fatalf("at %v: %v", v.Now, got)
		}
	}
}

func TestMayForce(t *testing.T) {
	good := func() *View {
		v := standby().volumes(cut)
		v.Votes = Votes{Voters: 2}
		v.Partner.Heard = v.Now - time.Minute
		return v
	}
	say := Statement{PartnerOff: true, Epochs: map[int]uint64{1: 7}}
	if err := MayForce(good(), say); err != nil {
		t.Errorf("MayForce refuses: %v", err)
	}
	for name, spoil := range map[string]func(*View, *Statement){
		"majority":        func(v *View, _ *Statement) { v.Votes.Quorum = true },
		"heard":           func(v *View, _ *Statement) { v.Partner.Heard = v.Now },
		"not said":        func(_ *View, s *Statement) { s.PartnerOff = false },
		"older copy":      func(v *View, _ *Statement) { v.Groups[0].Record.Survivor = A },
		"connected":       func(v *View, _ *Statement) { v.Groups[0].Volumes[0].Conn = Connected },
		"incomplete":      func(v *View, _ *Statement) { v.Groups[0].Volumes[1].Disk = Inconsistent },
		"epoch moved on":  func(v *View, _ *Statement) { v.Groups[0].Record.Epoch++ },
		"epoch not given": func(_ *View, s *Statement) { s.Epochs = nil },
	} {
		v, s := good(), say
		spoil(v, &s)
		if err := MayForce(v, s); err == nil {
			t.Errorf("%s: MayForce lets it pass", name)
		}
	}
	if o := Obstacle(good(), new(Memory), &good().Groups[0]); !strings.Contains(o, "third vote") {
		t.Errorf("Obstacle = %q, want the missing third vote", o)
	}
}

// The planner has no clock and does no I/O: that is why a jump of the wall clock
// cannot change what it decides.
func TestPackageIsPure(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{`"errors"`: true, `"fmt"`: true, `"time"`: true}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		src, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if !allowed[i.Path.Value] {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
		for _, clock := range []string{"time.Now", "time.Since", "time.Sleep", "time.After"} {
			if strings.Contains(string(src), clock) {
				t.Errorf("%s uses %s", f.Name(), clock)
			}
		}
	}
}

// A memory that went through /run is the same one.
func TestMemoryEncodes(t *testing.T) {
	m := old(serving(), true)
	var back Memory
	b, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if d := cmp.Diff(m.Groups, back.Groups); err != nil || d != "" {
		t.Errorf("%v:\n%s", err, d)
	}
	if fmt.Sprint(Action{Op: HandOver, Group: 2, To: B}) != "HandOver group 2 to B" {
		t.Error("an action does not read well")
	}
}
