package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"baystream/daemon/boot"
	"baystream/daemon/domain"
	"baystream/netcfg"
)

func poolOf(t *testing.T, text string) netcfg.Pool {
	t.Helper()
	d, err := netcfg.ParseDeployment("vlan:100,address:198.51.100.2/24,pool:" + text)
	if err != nil {
		t.Fatal(err)
	}
	return d.Pool
}

func ip(last int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(last)}) }

func mac(n int) string { return fmt.Sprintf("02:00:00:00:00:%02x", n) }

func TestStrangersAreBoundedAndForgotten(t *testing.T) {
	pool, now := poolOf(t, "198.51.100.100-198.51.100.139"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	taken := map[netip.Addr]string{ip(100): "server"}
	leases := map[string]lease{}
	for n := range 100 {
		a, _, err := strangerAddress(pool, taken, leases, mac(n), now)
		if full := n >= quota(pool.Size()); full != errors.Is(err, errStrangers) {
			t.Fatalf("stranger %d: %v, want a refusal: %v", n, err, full)
		}
		if err == nil {
			if _, twice := taken[a]; twice {
				t.Fatalf("stranger %d got the server's address", n)
			}
			leases[mac(n)] = lease{a, now.Add(time.Duration(n) * time.Second)}
		}
	}
	if a, forget, err := strangerAddress(pool, taken, leases, mac(3), now); a != leases[mac(3)].Address || forget != nil || err != nil {
		t.Errorf("a stranger who asks again gets %v, %v, %v; want its own address", a, forget, err)
	}
	later := now.Add(forgetStranger + 5*time.Second)
	_, forget, err := strangerAddress(pool, taken, leases, mac(99), later)
	slices.Sort(forget)
	if want := []string{mac(0), mac(1), mac(2), mac(3), mac(4)}; err != nil || !slices.Equal(forget, want) {
		t.Errorf("later %q are forgotten, %v; want %q", forget, err, want)
	}
	taken[leases[mac(7)].Address] = "another server"
	if a, _, err := strangerAddress(pool, taken, leases, mac(7), later); err != nil || a == leases[mac(7)].Address {
		t.Errorf("a stranger keeps %v, %v, which a server has", a, err)
	}
}

func TestServersGetAddressesFromStrangers(t *testing.T) {
	pool, now := poolOf(t, "198.51.100.100-198.51.100.103"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	taken := map[netip.Addr]string{ip(100): "a", ip(101): "b"}
	leases := map[string]lease{mac(1): {ip(102), now}, mac(2): {ip(103), now.Add(-time.Minute)}}
	if a, forget, err := serverAddress(pool, taken, leases, "c", mac(1)); a != ip(102) || !slices.Contains(forget, mac(1)) || err != nil {
		t.Errorf("a server that was a stranger gets %v, forgetting %q, %v", a, forget, err)
	}
	if a, forget, err := serverAddress(pool, taken, leases, "c", mac(9)); a != ip(103) || !slices.Contains(forget, mac(2)) || err != nil {
		t.Errorf("in a full pool a server gets %v, forgetting %q, %v; want the longest unseen stranger's", a, forget, err)
	}
	taken[ip(102)], taken[ip(103)] = "d", "e"
	if a, _, err := serverAddress(pool, taken, leases, "c", mac(9)); !errors.Is(err, boot.ErrPoolFull) {
		t.Errorf("a server gets %v, %v; each address is another server's", a, err)
	}
}

func TestDiscoveredServersMakeRoomOnceLongUnseen(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	server := func(id string, days int, profile string, discovered bool) domain.ServerHardware {
		return domain.ServerHardware{UUID: id, Discovered: discovered, ServerProfile: profile, LastSeen: domain.Stamp(now.AddDate(0, 0, -days))}
	}
	all := []domain.ServerHardware{server("registered", 900, "", false), server("used", 90, "p", true), server("old", 9, "", true), server("older", 10, "", true), server("new", 0, "", true)}
	if id, err := forgettable(all, 5, now); id != "" || err != nil {
		t.Errorf("with room %q goes, %v", id, err)
	}
	if id, err := forgettable(all, 4, now); id != "older" || err != nil {
		t.Errorf("without room %q goes, %v; want older", id, err)
	}
	if id, err := forgettable([]domain.ServerHardware{all[0], all[1], all[4]}, 2, now); err == nil {
		t.Errorf("%q goes, although each is in use or was just seen", id)
	}
}
