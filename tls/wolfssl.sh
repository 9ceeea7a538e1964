#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Builds the TLS library: wolfSSL, as a static library for ringpost alone. `make` calls it by itself.
#
#   tls/wolfssl.sh [DIR]      makes DIR/include and DIR/lib/libwolfssl.a (build/wolfssl)
#   WOLFSSL_SRC=TREE ...       from this unpacked source, which is only read; needs no network
#   WOLFSSL_SUITE=NAME ...     from the source package of this release (on every Debian: trixie; else the system's own)
#   WOLFSSL_CFLAGS=FLAGS ...   further flags for its compiler
#
# Why not the library that the distribution has built: it knows no AES instructions (a twentieth of the speed) and takes ten
# times the memory for a session. So its *source* package is taken, which has its security patches, and built with other
# options. apt-get brings it from the system's own mirrors with all its checks of signatures, by lists, a cache and a
# configuration that are ours and gone in the end: nothing of the system changes, and it needs no root.
#
# What was built is kept as long as this script and its settings stay as they are (DIR/stamp). DIR is replaced at the end and
# as a whole; until then the old one stays. A failure shows the end of its log, and the log stays as DIR.log. Two at once:
# the second waits and takes what the first has made. Exit status 69: it cannot be had, and why.
set -eu
export LC_ALL=C
umask 022
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
out=${1:-build/wolfssl}
tree=${WOLFSSL_SRC:-}
machine=$(uname -m)
os_release() { [ ! -r /etc/os-release ] || (. /etc/os-release && eval "printf '%s' \"\${$1:-}\""); }
codename=$(os_release VERSION_CODENAME)
if [ "$(os_release ID)" = debian ]; then suite=trixie; else suite=$codename; fi
suite=${WOLFSSL_SUITE:-$suite}

options="--disable-shared --enable-static --disable-examples --disable-crypttests
	--enable-sp=yes --enable-sp-asm --enable-sp-math-all --enable-harden
	--enable-tls13 --disable-oldtls --enable-session-ticket --enable-sni --enable-alpn --enable-curve25519
	--enable-ocsp --enable-ocspstapling --enable-crl --disable-crl-monitor --enable-keying-material"
case $machine in
x86_64) options="$options --enable-intelasm" ;;
aarch64) options="$options --enable-armasm" ;; # not tested
esac
# GETRANDOM: seeds without a descriptor. SECRET_CALLBACK: key logs.
# PYTHON, ALLOW_0_SERIAL: else 5.7.2 refuses root certificates whose serial number is 0 (Go Daddy G2, HARICA 2015, ...).
# ALWAYS_VERIFY_CB: our word on a chain that is good, too (pins). ALT_CERT_CHAINS: a chain to any CA that is trusted will do,
# whatever else was sent. TICKET_NONCE_MALLOC: nonces of tickets of any length. MAX_SUITE_SZ: octets of a client's list; 300 are too
# few for scanners, which name every suite there is.
flags=$(echo -O2 -g -fPIE -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2 -Wno-error \
	-DWOLFSSL_GETRANDOM -DHAVE_SECRET_CALLBACK -DWOLFSSL_PYTHON -DWOLFSSL_ASN_ALLOW_0_SERIAL \
	-DWOLFSSL_MAX_SUITE_SZ=1024 -DWOLFSSL_ALWAYS_VERIFY_CB -DWOLFSSL_ALT_CERT_CHAINS -DWOLFSSL_TICKET_NONCE_MALLOC \
	${WOLFSSL_CFLAGS:-})

die()
{
	printf 'wolfssl: %s\n' "$*" >&2
	exit 69
}

# ---- is it there already? ----

# What the result depends on. Of a tree: each file of the library's, by size and time.
settings()
{
	printf '%s\n' "$machine" "$suite" "$tree" "$flags"
	cat "$self"
	[ -z "$tree" ] || (cd "$tree" && find configure.ac src wolfcrypt wolfssl -type f -printf '%p %s %T@\n' | sort)
}

current()
{
	[ -f "$out/lib/libwolfssl.a" ] && [ "$(sed -n 's/^key //p' "$out/stamp" 2>/dev/null)" = "$key" ]
}

if [ -n "$tree" ] && { [ ! -f "$tree/configure.ac" ] || [ ! -f "$tree/src/ssl.c" ]; }; then
	die "WOLFSSL_SRC=$tree is no source of wolfSSL (configure.ac, src/ssl.c)"
fi
key=$(settings | sha256sum | cut -d ' ' -f 1)
current && exit 0
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
exec 9>"$out.lock"
flock 9
current && exit 0
[ ! -e "$out" ] || [ -f "$out/stamp" ] || rmdir "$out" 2>/dev/null || die "$out is there, and was not made by tls/wolfssl.sh"

# ---- what it takes ----

# COMMAND:PACKAGE ...
needs()
{
	missing=
	for one in "$@"; do
		command -v "${one%:*}" >/dev/null || missing="$missing ${one#*:}"
	done
	[ -z "$missing" ] || die "not installed:$missing (\`make deps\` installs it on Debian)"
}

if [ -z "$tree" ]; then
	command -v apt-get >/dev/null || die "no apt-get here: set WOLFSSL_SRC to an unpacked source of wolfSSL (5.7.2 or later)"
	needs dpkg-source:dpkg-dev
fi
needs cc:gcc make:make
[ -n "$tree" ] && [ -x "$tree/configure" ] || needs autoreconf:autoconf automake:automake libtoolize:libtool

# Whatever make was told for ringpost (CC=clang, flags of a sanitizer, its job server) is not for this library.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL CC CPP CXX AR LD CFLAGS CPPFLAGS CXXFLAGS LDFLAGS LIBS
log=$out.log
work=$out.building
fetch=
trap 'rm -rf "$work" ${fetch:+"$fetch"}' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$work" # of one that was killed
mkdir "$work"
: >"$log"

# step WORDS COMMAND...: silent unless it fails.
step()
{
	words=$1
	shift
	if ! ("$@") >>"$log" 2>&1; then
		tail -n 25 "$log" >&2
		die "$words; all that was said: $log"
	fi
}

# ---- the source ----

# Suites of this release, by name or by what it is to the others, become those of $suite; others (backports, the suites of
# other vendors) are left out.
moved='function moved(word,   base, tail) {
	base = word
	sub(/-.*/, "", base)
	tail = substr(word, length(base) + 1)
	if (base != from && base !~ /^(oldstable|stable|testing|unstable|sid)$/) return ""
	return tail ~ /^(-updates|-security)?$/ ? to tail : ""
}'

# deb [options] URI suite component...
list_entries()
{
	awk -v from="$codename" -v to="$suite" "$moved"'
	{ sub(/#.*/, "") }
	$1 == "deb" {
		options = ""
		if (match($0, /^[ \t]*deb[ \t]+\[[^]]*\]/)) {
			options = substr($0, 1, RLENGTH)
			$0 = "deb" substr($0, RLENGTH + 1)
			sub(/^[ \t]*deb[ \t]+/, "", options)
			sub(/[ \t]*trusted=[^] \t]*/, "", options)
			if (options ~ /^\[[ \t]*\]$/) options = ""
		}
		suite = moved($3)
		if (suite == "") next
		printf "deb-src %s %s %s", options, $2, suite
		for (i = 4; i <= NF; i++) printf " %s", $i
		printf "\n"
	}'
}

# Types:, URIs:, Suites:, ... in paragraphs
paragraph_entries()
{
	grep -v '^#' | awk -v from="$codename" -v to="$suite" "$moved"'
	BEGIN { RS = ""; FS = "\n" }
	{
		text = ""; wanted = 0; off = 0
		for (i = 1; i <= NF; i++) {
			line = $i
			name = tolower(line); sub(/:.*/, "", name)
			value = line; sub(/^[^:]*:[ \t]*/, "", value)
			if (line ~ /^[ \t]/) {
				# the value above goes on
			} else if (name == "types") {
				if ((" " value " ") !~ /[ \t]deb[ \t]/) off = 1
				line = "Types: deb-src"
			} else if (name == "suites") {
				n = split(value, word, /[ \t]+/)
				line = "Suites:"
				for (w = 1; w <= n; w++)
					if (moved(word[w]) != "") { line = line " " moved(word[w]); wanted = 1 }
			} else if (name == "enabled") {
				if (tolower(value) ~ /^(no|false|off|without|disable|0)/) off = 1
			} else if (name == "trusted") {
				continue
			}
			text = text line "\n"
		}
		if (wanted && !off) printf "%s\n", text
	}'
}

# The mirrors of the system, for source packages of $suite: files in the folder $1.
mirrors()
{
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -r "$f" ] || list_entries <"$f" >"$1/$(basename "$f" .list).list"
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[ ! -r "$f" ] || paragraph_entries <"$f" >"$1/$(basename "$f")"
	done
	grep -qs . "$1"/* || die "the system has no mirror of $codename in /etc/apt: name one there, or set WOLFSSL_SRC"
}

# The system's configuration holds (proxies), but for what acts on the system or chooses among packages.
apt_conf()
{
	cat <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$1/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$1/none";
Dir::State::Lists "$1/lists";
Dir::Cache "$1/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
}

# apt-get update succeeds, too, when it could read nothing: whether it did shows in the next step.
download()
{
	cd "$fetch/got" && { apt-get -q -c "$fetch/apt.conf" update || true; } &&
		apt-get -q -c "$fetch/apt.conf" source --download-only wolfssl
}

# In a folder that apt's own user may use: as root, it downloads as that one.
fetch_source()
{
	fetch=$(mktemp -d "${TMPDIR:-/tmp}/ringpost-wolfssl.XXXXXX")
	chmod 755 "$fetch"
	mkdir -p "$fetch/sources" "$fetch/none" "$fetch/lists/partial" "$fetch/cache/archives/partial" "$fetch/got"
	[ "$(id -u)" != 0 ] || ! id _apt >/dev/null 2>&1 || chown _apt "$fetch/got" "$fetch/lists/partial"
	mirrors "$fetch/sources"
	apt_conf "$fetch" >"$fetch/apt.conf"
	step "no source package of wolfssl in $suite: no network, or the system's mirrors do not have it (WOLFSSL_SRC=TREE takes an \
unpacked source; where a key is missing, a newer debian-archive-keyring has it)" download
	set -- "$fetch"/got/*.dsc
	origin=$(basename "$1" .dsc)
	step "cannot unpack $origin" dpkg-source -x "$1" "$work/src"
	rm -rf "$fetch"
	fetch=
}

copy_source()
{
	origin=$tree
	step "cannot copy $tree" cp -R -p "$tree/." "$work/src"
	rm -rf "$work/src/.git" "$work/src/config.status"
}

# ---- building ----

build()
{
	cd "$work/src" && { [ -x configure ] || ./autogen.sh; } && mkdir "$work/build" && cd "$work/build" &&
		"$work/src/configure" -q --prefix="$work/prefix" $options CC=cc CFLAGS="$flags" &&
		make -s -j "$(nproc)" && make -s install
}

put_in_place()
{
	new=$work/new
	mkdir -p "$new/lib"
	cp "$work/prefix/lib/libwolfssl.a" "$new/lib/"
	cp -R "$work/prefix/include" "$new/include"
	# No part of its interface, but tls/tickets.c needs the size of a ticket from it.
	cp "$work/src/wolfssl/internal.h" "$new/include/wolfssl/"
	version=$(sed -n 's/^#define LIBWOLFSSL_VERSION_STRING "\(.*\)"/\1/p' "$new/include/wolfssl/version.h")
	[ "$machine" != x86_64 ] || grep -q '^#define WOLFSSL_AESNI' "$new/include/wolfssl/options.h" ||
		die "$origin cannot be built with AES instructions"
	printf 'wolfSSL %s, from %s\nkey %s\n' "$version" "$origin" "$key" >"$new/stamp"
	[ ! -e "$out" ] || mv "$out" "$work/old"
	mv "$new" "$out"
}

if [ -n "$tree" ]; then
	echo "wolfssl: building $tree (once; half a minute)"
	copy_source
else
	echo "wolfssl: fetching and building the source package of $suite (once; a minute)"
	fetch_source
fi
step "cannot build $origin" build
put_in_place
rm -f "$log"
echo "wolfssl: $(sed -n 1p "$out/stamp")"
