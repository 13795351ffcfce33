package pair

import "encoding/json"

func encode(m *Memory) ([]byte, error)    { return json.Marshal(m) }
func decode(b []byte, into *Memory) error { return json.Unmarshal(b, into) }
