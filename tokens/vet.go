package tokens

import "orthanc-oauth/backend"

// Vet reports whether this process could use an entry of key: it opens under
// the credential and is bound to its stamp. A backend asks before it holds what
// a peer sent, since a peer may have the cluster's secret and not the
// credential. Entries of keys that are not configured here pass: nobody here
// will use them.
func (m *Manager) Vet(key string, e backend.Entry) error {
	m.mu.RLock()
	c, ok := m.keys[key]
	m.mu.RUnlock()
	if !ok {
		return nil
	}
	_, err := c.open(e)
	return err
}
