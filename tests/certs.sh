#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The certificates of the tests, made on the spot: sh tests/certs.sh DIR
# Calling it again costs nothing; several callers at once wait for each other. In DIR, PEM all:
#
#   ca.pem .key                     the CA that the tests trust
#   ecdsa.pem .key, rsa.pem .key    chains (leaf, then an intermediate) for localhost, mx.example.org, *.wild.example
#   other-name.pem .key             the same CA, for other.example.net alone
#   expired.pem .key                the same names as ecdsa.pem, until February 2020
#   selfsigned.pem .key             the same names, signed by itself
#   unknown-ca.pem .key             the same names, signed by a CA that nobody trusts, which is in the chain as well
#   client-ca.pem .key              the CA of clients
#   client.pem .key                 a client's: client.example.com
set -eu
dir=${1:?usage: certs.sh DIR}
mkdir -p "$dir"
script=$(cksum < "$0")
exec 9> "$dir/.lock"
flock 9
[ "$(cat "$dir/.done" 2> /dev/null)" = "$script" ] && exit 0
cd "$dir"
rm -f ./*.pem ./*.key .done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
names=DNS:localhost,DNS:mx.example.org,DNS:*.wild.example

printf '[req]\ndistinguished_name=dn\n[dn]\n' > "$tmp/req.cnf"
cat > "$tmp/ca.cnf" << END
[ca]
default_ca=d
[d]
database=$tmp/index
new_certs_dir=$tmp
rand_serial=yes
default_md=sha256
policy=p
[p]
commonName=supplied
END
: > "$tmp/index"
say() { openssl "$@" 2> "$tmp/err" || { cat "$tmp/err" >&2; exit 1; }; }

# request NAME KIND CN: NAME.key and a request for it
request() {
    case $2 in
    rsa) say genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key" ;;
    *) say genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" ;;
    esac
    say req -new -config "$tmp/req.cnf" -key "$1.key" -subj "/CN=$3" -out "$tmp/$1.csr"
}
# extensions NAME BASIC USAGE [EXTENDED [SAN]]
extensions() {
    {
        printf 'basicConstraints=critical,%s\nkeyUsage=critical,%s\nsubjectKeyIdentifier=hash\n' "$2" "$3"
        [ -z "${4:-}" ] || printf 'extendedKeyUsage=%s\n' "$4"
        [ -z "${5:-}" ] || printf 'subjectAltName=%s\n' "$5"
    } > "$tmp/$1.ext"
}
# sign NAME ISSUER: by ISSUER.pem in DIR or in $tmp
sign() {
    printf 'authorityKeyIdentifier=keyid\n' >> "$tmp/$1.ext"
    say x509 -req -in "$tmp/$1.csr" -CA "$2.pem" -CAkey "$2.key" -days 3650 -sha256 \
        -extfile "$tmp/$1.ext" -out "$1.pem"
}
self_sign() {
    say x509 -req -in "$tmp/$1.csr" -signkey "$1.key" -days 3650 -sha256 -extfile "$tmp/$1.ext" -out "$1.pem"
}
authority() {
    request "$1" ec "$2"
    extensions "$1" CA:TRUE keyCertSign,cRLSign
    self_sign "$1"
}
both=serverAuth,clientAuth

authority ca "Test CA"
authority client-ca "Test client CA"
authority nobody "Nobody's CA"
request middle ec "Test intermediate CA"
extensions middle CA:TRUE,pathlen:0 keyCertSign,cRLSign
sign middle ca
for kind in ecdsa rsa; do
    request $kind $kind mx.example.org
    extensions $kind CA:FALSE digitalSignature $both "$names"
    sign $kind middle
    cat middle.pem >> $kind.pem
done
request other-name ec other.example.net
extensions other-name CA:FALSE digitalSignature $both DNS:other.example.net
sign other-name ca
request unknown-ca ec mx.example.org
extensions unknown-ca CA:FALSE digitalSignature $both "$names"
sign unknown-ca nobody
cat nobody.pem >> unknown-ca.pem
request selfsigned ec mx.example.org
extensions selfsigned CA:FALSE digitalSignature $both "$names"
self_sign selfsigned
request client ec client.example.com
extensions client CA:FALSE digitalSignature clientAuth DNS:client.example.com
sign client client-ca
request expired ec mx.example.org
extensions expired CA:FALSE digitalSignature $both "$names"
say ca -batch -notext -config "$tmp/ca.cnf" -startdate 20200101000000Z -enddate 20200201000000Z \
    -cert ca.pem -keyfile ca.key -in "$tmp/expired.csr" -extfile "$tmp/expired.ext" -out expired.pem
rm -f middle.* nobody.*
chmod 600 ./*.key
echo "$script" > .done
