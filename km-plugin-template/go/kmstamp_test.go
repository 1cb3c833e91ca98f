package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

const identity = stampTag + `plugin = "go-logger"
version = "1.0.0"
customer = "customer_123"
tier = "Pro"
api_key_sha256 = "2f1e"
base_sha256 = "00ff"
`

// stamped gives both sections as km-pack fills them.
func stamped(text string) (slot, keys []byte) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public := private.Public().(ed25519.PublicKey)
	id := sha256.Sum256(append([]byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), public...))
	signed := append(append(id[:8:8], ed25519.Sign(private, []byte(text))...), text...)
	slot, keys = inFile(stampSlot[:]), inFile(stampKeys[:])
	binary.LittleEndian.PutUint32(slot[24:], uint32(len(signed)))
	copy(slot[stampHeader:], signed)
	keys[24] = 1
	copy(keys[stampHeader:], public)
	return slot, keys
}

func TestAnIdentityIsReadAsItWasStamped(t *testing.T) {
	slot, keys := stamped(identity)
	found, err := verifyStamp(slot, keys, "go-logger", "1.0.0")
	if err != nil || found.Customer != "customer_123" || found.Tier != "Pro" || found.Base != "00ff" {
		t.Fatal(found, err)
	}
	if found, err := readStamp("go-logger", "1.0.0"); found != nil || err != nil {
		t.Fatal("this test is not stamped:", found, err)
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	slot, keys := stamped(identity)
	for at := range slot {
		slot[at] ^= 1
		if found, err := verifyStamp(slot, keys, "go-logger", "1.0.0"); err == nil {
			t.Fatalf("byte %d: %v", at, found)
		}
		slot[at] ^= 1
	}
	for at := range keys {
		keys[at] ^= 1
		if found, err := verifyStamp(slot, keys, "go-logger", "1.0.0"); err == nil {
			t.Fatalf("byte %d of the keys: %v", at, found)
		}
		keys[at] ^= 1
	}
}

func TestWhatIsSignedForSomethingElseIsRefused(t *testing.T) {
	for _, text := range []string{
		strings.Replace(identity, `"go-logger"`, `"not-go-logger"`, 1),
		strings.Replace(identity, "1.0.0", "1.0.1", 1),
		strings.Replace(identity, "kmid/1", "kmindex/1", 1),
		strings.Replace(identity, `"Pro"`, `"Gold"`, 1),
		strings.Replace(identity, `tier = "Pro"`, "", 1),
		strings.Replace(identity, "customer = ", "customers = ", 1),
		identity + "tier = \"Enterprise\"\n",
		identity + "more = \"x\"\n",
		identity + "tier\n",
	} {
		slot, keys := stamped(text)
		if found, err := verifyStamp(slot, keys, "go-logger", "1.0.0"); err == nil {
			t.Errorf("%v of %s", found, text)
		}
	}
}

func TestAPaidPluginRunsForTheHolderOfItsKey(t *testing.T) {
	digest := sha256.Sum256([]byte("kmid/1 api-key\x00secret"))
	own := &stamp{Tier: "Pro", APIKey: hex.EncodeToString(digest[:])}
	for _, test := range []struct {
		required string
		stamp    *stamp
		key      string
		runs     bool
	}{
		{"Free", nil, "", true}, {"Free", own, "", true}, {"Pro", own, "secret", true},
		{"Pro", nil, "secret", false}, {"Pro", own, "other", false}, {"Pro", own, "", false},
		{"Pro", &stamp{Tier: "Pro"}, "", false}, {"Enterprise", own, "secret", false},
	} {
		s := server{requiredTier: test.required, stamp: test.stamp}
		if _, err := s.judge(test.key); (err == nil) != test.runs {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
