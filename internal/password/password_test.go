package password

import "testing"

func TestOnlyThePasswordFitsItsHash(t *testing.T) {
	h := Hash("correct horse", Cost{Time: 1, Memory: 64})
	if !Check(h, "correct horse") || Check(h, "Correct horse") || h == Hash("correct horse", Cost{Time: 1, Memory: 64}) {
		t.Errorf("hash %q fits the wrong passwords, or has no salt", h)
	}
	for _, broken := range []string{"", "plain", "$argon2id$v=19$m=64,t=0,p=1$AAAA$AAAA", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=64,t=1,p=1$AAAA$"} {
		if Check(broken, "") || Check(broken, "plain") {
			t.Errorf("%q fits a password", broken)
		}
	}
}
