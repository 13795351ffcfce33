// Package password makes and checks what is stored of a password: an argon2id
// hash (RFC 9106) in the PHC string format. The daemon checks log-ins with it,
// and the serial console those of a module whose daemon is dead.
package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost is what a hash costs to make, and to guess.
type Cost struct {
	Time   uint32 // passes
	Memory uint32 // KiB
}

// Default is the cost that OWASP names for little memory.
var Default = Cost{Time: 2, Memory: 19 << 10}

const (
	threads   = 1
	saltLen   = 16 // bytes
	hashLen   = 32 // bytes
	maxMemory = 1 << 20
)

// Hash makes the string that is stored for a password.
func Hash(password string, c Cost) string {
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt) // does not fail (crypto/rand)
	sum := argon2.IDKey([]byte(password), salt, c.Time, c.Memory, threads, hashLen)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.Memory, c.Time, threads, b64(salt), b64(sum))
}

// Check says whether password made hash; a hash in another form fits no
// password.
func Check(hash, password string) bool {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	var m, t uint32
	var p uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &m, &t, &p); err != nil || t < 1 || p < 1 || m > maxMemory {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) == 0 {
		return false
	}
	return subtle.ConstantTimeCompare(want, argon2.IDKey([]byte(password), salt, t, m, p, uint32(len(want)))) == 1
}
