package config

// sidecar checks what orthanc-oauth serve needs: without credentials it would
// lend patient data to every local user, so there is no default for them.
func (b *builder) sidecar(at place, f fileSection) {
	s := Sidecar{Listen: f.Listen, AdminListen: f.AdminListen}
	s.Users = b.requiredFile(at.at("UsersFile"), f.UsersFile, "with the credentials of the data path (orthanc-oauth hash-password)")
	s.AdminToken = b.requiredFile(at.at("AdminTokenFile"), f.AdminTokenFile, "with the bearer token of the admin routes")
	s.ListenTLS.CertFile, s.ListenTLS.KeyFile = b.keyPair(at.at("ListenTLS"), f.ListenTLS.CertFile, f.ListenTLS.KeyFile)
	b.listener(at.at("Listen"), f.Listen, s.ListenTLS.IsSet())
	b.listener(at.at("AdminListen"), f.AdminListen, s.ListenTLS.IsSet())
	b.cfg.Sidecar = s
}

// maxUsersFile has room for ten thousand hashed passwords; the admin token's
// file shares the bound.
const maxUsersFile = 2 << 20

func (b *builder) requiredFile(at place, name *string, what string) SecretRef {
	if name == nil {
		b.report.refuse(at, MissingKey, "is missing; it is the path of a file %s", what)
		return SecretRef{at: at}
	}
	if !b.require(at, *name) {
		return SecretRef{at: at}
	}
	return b.load(SecretRef{at: at, file: b.path(*name), limit: maxUsersFile})
}

// listener refuses an address where credentials would travel readably.
func (b *builder) listener(at place, addr string, tls bool) {
	host, ok := splitAddr(addr)
	switch {
	case !ok:
		b.report.invalid(at, brief(addr), "host:port")
	case tls || isLoopback(host):
	case b.cfg.AllowInsecure:
		b.degrade(at, "listens beyond loopback without TLS: credentials travel in the clear")
	default:
		b.report.refuse(at, InvalidValue, "found %q, which is not loopback; set ListenTLS, or AllowInsecure", addr)
	}
}
