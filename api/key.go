package api

// A Key is what the control plane shows of an API key: never the key itself.
// Its times are strings or null, because the command line of HopX prints them
// as they are.
type Key struct {
	ID         string `json:"id"`
	KeyID      string `json:"key_id"` // the same: the part of the key before the dot's secret
	Name       string `json:"name"`
	Prefix     string `json:"prefix"`     // what the full key begins with
	Status     string `json:"status"`     // active or expired; revoked keys are not shown
	MaskedKey  string `json:"masked_key"` // the prefix and dots
	CreatedAt  Time   `json:"created_at"`
	ExpiresAt  Time   `json:"expires_at"`   // null: never
	LastUsedAt Time   `json:"last_used_at"` // exact to a minute; null: never used
}

// A KeyList has the keys twice, because the two command lines of HopX look for
// them under two names.
type KeyList struct {
	Success   bool   `json:"success"`
	APIKeys   []Key  `json:"api_keys"` // never null
	Keys      []Key  `json:"keys"`     // the same
	Count     int    `json:"count"`
	RequestID string `json:"request_id"`
}

// A KeyAnswer answers a question for one key.
type KeyAnswer struct {
	Success   bool   `json:"success"`
	APIKey    Key    `json:"api_key"`
	RequestID string `json:"request_id"`
}

// A CreatedKey answers the making of a key, and is the only answer that has the
// key in full, under the two names that clients know.
type CreatedKey struct {
	Success   bool   `json:"success"`
	Message   string `json:"message"`
	ID        string `json:"id"`
	APIKey    Key    `json:"api_key"`
	FullKey   string `json:"full_key"`
	Key       string `json:"key"` // the same
	RequestID string `json:"request_id"`
}

// A RevokedKey answers the revocation of a key.
type RevokedKey struct {
	Success   bool   `json:"success"`
	Message   string `json:"message"`
	ID        string `json:"id"`
	RequestID string `json:"request_id"`
}

// CreateKey asks for an API key.
type CreateKey struct {
	Name      string `json:"name"`
	ExpiresIn string `json:"expires_in,omitempty"` // one of [KeyLives]; "": never
}

// KeyLives lists how long a key may be asked to live.
var KeyLives = []string{"1month", "3months", "6months", "1year", "never"}
