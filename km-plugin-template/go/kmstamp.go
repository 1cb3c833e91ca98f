// Whose this binary is: the identity that km-pack stamps into it. Needs nothing but the standard
// library: copy this file into any plugin in Go, call readStamp, and km-pack build finds its places.

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// stampSlot and stampKeys are filled in the file, before the program runs: the first with the signed
// identity of one customer, the second with the release keys that it is checked with. Nothing writes
// to them here.
//
//	 0  16  magic, by which km-pack finds the place: it may be in the file only once
//	16   4  layout, 1                             all numbers little-endian
//	20   4  capacity: 4064 bytes, or 31 keys
//	24   4  length of the signed identity, or number of keys
//	28   4  zero
//	32      key id 8 | ed25519 64 | text, or keys of 32 bytes; then zeros
var (
	stampSlot = [4096]byte{
		'k', 'm', 's', 't', 'a', 'm', 'p', 0, 0xd1, 0x1c, 0x9e, 0x53, 0x07, 0xb8, 0x64, 0xfa,
		1, 0, 0, 0, 4064 & 0xff, 4064 >> 8,
	}
	stampKeys = [1024]byte{
		'k', 'm', 'k', 'e', 'y', 's', 0, 0, 0x8f, 0x2b, 0x70, 0xc5, 0x19, 0xae, 0x43, 0xd6,
		1, 0, 0, 0, 31,
	}
)

// The magics, masked: a plain copy of one would be a second place.
const (
	stampMask     = 0xa5
	slotMagic     = "\xce\xc8\xd6\xd1\xc4\xc8\xd5\xa5\x74\xb9\x3b\xf6\xa2\x1d\xc1\x5f"
	keysMagic     = "\xce\xc8\xce\xc0\xdc\xd6\xa5\xa5\x2a\x8e\xd5\x60\xbc\x0b\xe6\x73"
	stampHeader   = 32
	stampTag      = "format = \"kmid/1\"\n"
	apiKeyContext = "kmid/1 api-key\x00"
)

// stamp is whose this binary is.
type stamp struct {
	Plugin, Version, Customer, Tier string
	// APIKey is a digest (see isKey); empty unless the build was given a key.
	APIKey string
	// Base is the digest of the binary with its slot zeroed, one for all customers.
	Base string
	// KeyID names the release key that signed it.
	KeyID string
}

// readStamp gives the identity in this binary, if a release key signed it for this plugin in this
// version. It gives nil where the binary was compiled, but not built by km-pack; an error where it was
// tampered with.
func readStamp(plugin, version string) (*stamp, error) {
	return verifyStamp(inFile(stampSlot[:]), inFile(stampKeys[:]), plugin, version)
}

// inFile keeps the compiler from reasoning about what the source says is there.
//
//go:noinline
func inFile(section []byte) []byte { return bytes.Clone(section) }

func verifyStamp(slot, keys []byte, plugin, version string) (*stamp, error) {
	signed, err := used(slot, slotMagic, 1)
	if err != nil || len(signed) == 0 {
		return nil, err
	}
	if len(signed) <= 8+ed25519.SignatureSize {
		return nil, errors.New("the signed identity is too short")
	}
	id, signature, text := signed[:8], signed[8:72], signed[72:]
	key, err := keyOf(keys, id)
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(key, text, signature) {
		return nil, fmt.Errorf("embedded identity: the signature of key %x does not hold", id)
	}
	found, err := parseStamp(string(text))
	if err != nil {
		return nil, fmt.Errorf("embedded identity: %w", err)
	}
	if found.Plugin != plugin || found.Version != version {
		return nil, fmt.Errorf("embedded identity: it is of another binary, %s %s", found.Plugin, found.Version)
	}
	found.KeyID = hex.EncodeToString(id)
	return found, nil
}

// used gives what a section holds, in entries of so many bytes.
func used(section []byte, magic string, entry int) ([]byte, error) {
	for i := range len(magic) {
		if section[i]^stampMask != magic[i] {
			return nil, errors.New("this is no section of a known layout")
		}
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(section[at:]) }
	capacity := (len(section) - stampHeader) / entry
	if word(16) != 1 || word(20) != uint32(capacity) || word(28) != 0 {
		return nil, errors.New("this is no section of a known layout")
	}
	if word(24) > uint32(capacity) {
		return nil, fmt.Errorf("the length %d in a section cannot be", word(24))
	}
	end := stampHeader + int(word(24))*entry
	if len(bytes.Trim(section[end:], "\x00")) > 0 {
		return nil, errors.New("a section is not zero after its used part")
	}
	return section[stampHeader:end], nil
}

// keyOf gives the release key with this id: the first 8 bytes of SHA-256 over the key in SPKI DER.
func keyOf(section, id []byte) (ed25519.PublicKey, error) {
	keys, err := used(section, keysMagic, ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	for ; len(keys) > 0; keys = keys[ed25519.PublicKeySize:] {
		key := keys[:ed25519.PublicKeySize]
		digest := sha256.Sum256(append([]byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), key...))
		if bytes.Equal(digest[:8], id) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("embedded identity: signed by key %x, which is none of this binary's", id)
}

// parseStamp reads the lines `key = "value"` of a text that was signed.
func parseStamp(text string) (*stamp, error) {
	lines, tagged := strings.CutPrefix(text, stampTag)
	if !tagged {
		return nil, errors.New("the first line is not the tag kmid/1")
	}
	found := stamp{}
	fields := map[string]*string{
		"plugin": &found.Plugin, "version": &found.Version, "customer": &found.Customer,
		"tier": &found.Tier, "api_key_sha256": &found.APIKey, "base_sha256": &found.Base,
	}
	for line := range strings.Lines(lines) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		field, known := fields[key]
		if value, quoted := unquote(value); known && quoted && *field == "" {
			*field = value
			continue
		}
		return nil, fmt.Errorf("a line that does not belong there: %q", line)
	}
	if found.Plugin == "" || found.Version == "" || found.Customer == "" || found.Base == "" {
		return nil, errors.New("a field is missing")
	}
	if tierRank(found.Tier) < 0 {
		return nil, fmt.Errorf("%q is not a tier", found.Tier)
	}
	return &found, nil
}

func unquote(value string) (string, bool) {
	value, begun := strings.CutPrefix(value, `"`)
	value, ended := strings.CutSuffix(value, `"`)
	return value, begun && ended && !strings.ContainsAny(value, "\"\\")
}

// tierRank orders the tiers; it is negative for what is none.
func tierRank(tier string) int {
	for rank, name := range [...]string{"Free", "Pro", "Enterprise"} {
		if tier == name {
			return rank
		}
	}
	return -1
}

// isKey tells whether this binary was built for the holder of an API key.
func (s *stamp) isKey(apiKey string) bool {
	digest := sha256.Sum256([]byte(apiKeyContext + apiKey))
	return apiKey != "" && s.APIKey == hex.EncodeToString(digest[:])
}

// describeStamp is what --version prints of what readStamp gave.
func describeStamp(s *stamp, err error) string {
	switch {
	case err != nil:
		return fmt.Sprintf("customer: unknown\nerror: %v", err)
	case s == nil:
		return "customer: none (not stamped; `km-pack build` stamps it)\ntier: Free"
	default:
		return fmt.Sprintf("customer: %s\ntier: %s\nsigned by: %s\nbase sha256: %s", s.Customer, s.Tier, s.KeyID, s.Base)
	}
}
