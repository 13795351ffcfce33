package demo

import (
	"context"
	"fmt"
	"time"

	"baystream/qemu"
	"baystream/qemu/pair"
)

// sight is what the servers felt of one thing that happened to the pair.
type sight struct {
	what  string
	gaps  []time.Duration // of each server
	write time.Duration   // first write that management accepted; 0: not looked for
}

// pair tells what two servers feel when the appliances under them die and move.
func (s *story) pair(ctx context.Context) error {
	var site *pair.Site
	var sights []sight
	var dead *qemu.Bay
	err := s.simple("Power on two appliances and a witness in three frames; first contact with one", func() (err error) {
		site, err = pair.Up(ctx, pair.Options{
			Frame: qemu.Config{Dir: s.Dir, Image: s.Image, Compute: 2, Log: s.Log}, Cache: s.Cache,
			Tell: func(what string) { s.printf("         %s", what) },
		})
		if site != nil {
			s.frame = site.Frame
		}
		return err
	})
	steps := []struct {
		what string
		do   func() error
	}{
		{"Claim the others by the fingerprints on their consoles: a domain of three votes", func() error { return site.Form(ctx) }},
		{"Deploy two servers, one in each storage group; wait until both write and check what they wrote", func() error { return site.Serve(ctx, 2) }},
		{"Wait until both groups are at home and in sync", func() error { return s.settled(ctx, site) }},
		{"Take the power from the active appliance", func() error {
			active, standby, err := site.Active(ctx)
			if err != nil {
				return err
			}
			return s.watch(ctx, site, &sights, "power cut of "+active.Name()+" (active, owner of a group)", func() (time.Duration, error) {
				began := time.Now()
				dead = active
				active.PowerOff()
				took, err := site.FirstWrite(ctx, "demo", began)
				if err == nil {
					err = site.WaitOwner(ctx, standby)
				}
				return took, err
			})
		}},
		{"Give it its power back; wait for the resync and for its group to come home", func() error {
			return s.watch(ctx, site, &sights, "its return", func() (time.Duration, error) {
				_, err := site.Return(ctx, dead)
				return 0, err
			})
		}},
		{"Hand management over and move a group, on purpose", func() error {
			return s.watch(ctx, site, &sights, "planned hand-over and move of group 1", func() (time.Duration, error) {
				_, standby, err := site.Active(ctx)
				if err != nil {
					return 0, err
				}
				began := time.Now()
				if err := site.SwitchOver(ctx, standby); err != nil {
					return 0, err
				}
				took, err := site.FirstWrite(ctx, "demo", began)
				if err == nil {
					err = site.MoveGroup(ctx, "1", site.B.Identity.Serial)
				}
				if err == nil {
					err = site.MoveGroup(ctx, "1", pair.Home)
				}
				return took, err
			})
		}},
		{"Read every block again on both servers", func() error { return site.Check(ctx) }},
	}
	for _, st := range steps {
		if err != nil {
			return err
		}
		err = s.simple(st.what, st.do)
	}
	if err == nil {
		s.sights(site, sights)
	}
	return err
}

// settled waits until all is well, and shows it.
func (s *story) settled(ctx context.Context, site *pair.Site) error {
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(time.Minute))
	defer cancel()
	st, err := site.WaitSettled(ctx)
	if err == nil {
		s.printf("         %v", st)
	}
	return err
}

// watch lets something happen and notes what each server felt of it.
func (s *story) watch(ctx context.Context, site *pair.Site, sights *[]sight, what string, do func() (time.Duration, error)) error {
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(time.Minute))
	defer cancel()
	site.Mark()
	took, err := do()
	if err != nil {
		return err
	}
	if err := site.WaitWrites(ctx, 10); err != nil {
		return err
	}
	seen := sight{what: what, write: took}
	for _, v := range site.Servers {
		r := v.Report()
		if !r.Clean() {
			return fmt.Errorf("%s saw %d errors and %d mismatches: %v", v.Name(), r.Errors, r.Mismatches, r.Bad)
		}
		seen.gaps = append(seen.gaps, r.Gap)
		s.printf("         %s (group %s): longest pause %.2f s, no error", v.Name(), v.Group, r.Gap.Seconds())
	}
	*sights = append(*sights, seen)
	return nil
}

// sights is the table at the end.
func (s *story) sights(site *pair.Site, all []sight) {
	head := fmt.Sprintf("\n%-58s", "what the servers felt: longest pause, seconds")
	for _, v := range site.Servers {
		head += fmt.Sprintf(" %10s", v.Name())
	}
	s.printf("%s %18s", head, "first write, REST")
	for _, x := range all {
		line := fmt.Sprintf("%-58s", x.what)
		for _, g := range x.gaps {
			line += fmt.Sprintf(" %10.2f", g.Seconds())
		}
		write := "-"
		if x.write > 0 {
			write = fmt.Sprintf("%.2f", x.write.Seconds())
		}
		s.printf("%s %18s", line, write)
	}
}
