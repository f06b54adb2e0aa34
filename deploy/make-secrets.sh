#!/bin/sh
# Create the secrets of the services: passwords, Redis URLs that contain them, the ACL file of Redis, a private CA and
# the certificates that it signs. Existing files are kept: to renew one, delete it, run this again and restart the
# services that mount it.
#
# usage: deploy/make-secrets.sh [DIRECTORY]        default: secrets
#   TLS_HOSTS="redis.example.org gateway.example.org"   further host names in the certificates
#   REDIS_HOST=redis REDIS_PORT=6379                    where clients find Redis
#   TENANTS="acme beta"                                 a Redis user producer-TENANT and a task key for each
#   STATE=redis-stack                                  rights for workers with LGRQ_STATE=redis-stack
#   INDEX=vector-sets                                  rights for workers with LGRQ_STORE_INDEX=vector-sets
#   OPENAI_API_KEY=...                                  the key of the model API; without it one for the offline model
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
secrets=${1:-secrets}
hosts="redis gateway dashboard localhost ${TLS_HOSTS:-}"
command -v openssl >/dev/null || { echo "error: expected openssl on PATH, got: none; install it" >&2; exit 2; }

# Compose mounts files with their modes and containers run as other users: so the directory's mode protects the files.
mkdir -p "$secrets"
chmod 700 "$secrets"
cd "$secrets"

have() { [ -s "$1" ]; }

password() { have "$1" || openssl rand -hex 24 >"$1"; }

certificate() {
  have "$1.crt" && have "$1.key" && return
  names=IP:127.0.0.1
  for host in $hosts; do names="$names,DNS:$host"; done
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -subj "/CN=$1" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nauthorityKeyIdentifier=keyid\n' "$names" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days 825 \
    -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm -f "$1.csr" "$1.ext"
}

have ca.crt && have ca.key || {
  rm -f redis.crt gateway.crt
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=langgraph-rq private CA" -keyout ca.key -out ca.crt \
    -addext "basicConstraints=critical,CA:true" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
}
certificate redis
certificate gateway

# Tenants that were named once are kept.
tenants=$({
  for tenant in ${TENANTS:-}; do echo "$tenant"; done
  for file in redis_producer-*_password; do
    file=${file#redis_producer-}
    [ "$file" = "*_password" ] || echo "${file%_password}"
  done
} | sort -u)

# The users of Redis: deploy/redis/users.acl with the SHA-256 of each password.
grep -v -e '^#' -e '^$' "$here/redis/users.acl" >users.acl.new
if [ "${STATE:-}" = redis-stack ]; then
  commands="+module|list +ft.create +ft.info +ft._list +ft.search +ft.aggregate +ft.explain"
  commands="$commands +json.set +json.get +json.mget +json.del +json.type +json.merge"
  keys="~checkpoint* ~write_keys_zset:* ~store ~store:* ~store_vectors ~store_vectors:*"
  sed -e "/^user worker /s/ ~agent:\* / $commands $keys ~agent:* /" users.acl.new >stack.acl
  mv stack.acl users.acl.new
fi
if [ "${INDEX:-}" = vector-sets ]; then
  sed -e "/^user worker /s/ ~agent:\* / +vadd +vcard +vdim +vemb +vrem +vsim ~agent:* /" users.acl.new >sets.acl
  mv sets.acl users.acl.new
fi
roles="admin producer worker dashboard"
# A producer of one tenant has the producer's rights, on the keys of its tenant where a key belongs to one.
for tenant in $tenants; do
  own="$tenant--"
  grep '^user producer ' users.acl.new | sed -e "s/^user producer /user producer-$tenant /" \
    -e "s/#<producer>/#<producer-$tenant>/" \
    -e "s/~agent:task:\*/~agent:task:$own*/" -e "s/~agent:result:\*/~agent:result:$own*/" \
    -e "s/~agent:events:\*/~agent:events:$own*/" -e "s/~agent:awaited:\*/~agent:awaited:$own*/" -e "s/~agent:waiting:\*/~agent:waiting:*:$own*/" \
    -e "s/~agent:tenant\*/~agent:tenants ~agent:tenant_turns:* ~agent:tenant_line:*:$tenant ~agent:tenant_open:$tenant ~agent:tenant_kept:$tenant/" \
    -e "s/~agent:capped:\*/~agent:capped:$own*/" -e "s/~agent:thread:\*/~agent:thread:$own*/" -e "s/~agent:question:\*/~agent:question:$own*/" \
    -e "s/~agent:thread_late:\*/~agent:thread_late:$own*/" -e "s/~agent:run_count:\*/~agent:run_count:$tenant/" \
    -e "s/~agent:threads_by:\*/~agent:threads_by:$tenant:*/" -e "s/~agent:threads:\*/~agent:threads:$tenant/" \
    -e "s/~agent:thread_row:\*/~agent:thread_row:$own*/" -e "s/~agent:thread_runs:\*/~agent:thread_runs:$own*/" \
    -e "s/~agent:reply:\*/~agent:reply:$own*/" \
    -e "s/~agent:runs:\*/~agent:runs:$tenant:*/" -e "s/~agent:ids:\*/~agent:ids:$tenant ~agent:ids:$tenant:*/" \
    -e "s/~rq:job:\*/~rq:job:$own*/" -e "s/~rq:results:\*/~rq:results:$own*/" -e "s/ %R~rq:\* / %R~rq:workers* %R~rq:worker:* /" \
    -e "s/ ~agent:rate\* / /g" -e "s/ %R~agent:budget:\* / /g" >tenant.acl
  cat tenant.acl >>users.acl.new
  roles="$roles producer-$tenant"
done
rm -f tenant.acl
for role in $roles; do
  password "redis_${role}_password"
  sha=$(tr -d '\n' <"redis_${role}_password" | openssl dgst -sha256 | sed 's/.* //')
  sed "s/#<$role>/#$sha/" users.acl.new >users.acl.part
  mv users.acl.part users.acl.new
  printf 'rediss://%s:%s@%s:%s/0?ssl_ca_certs=/run/secrets/ca.crt\n' "$role" "$(cat "redis_${role}_password")" \
    "${REDIS_HOST:-redis}" "${REDIS_PORT:-6379}" >url.new
  mv -f url.new "${role}_redis_url"
done
mv -f users.acl.new users.acl

password dashboard_password
# The keys of signed tasks: those of all tenants for workers and the gateway, its own for each tenant's producers.
if [ -n "$tenants" ]; then
  for tenant in default $tenants; do
    have "task_key_$tenant" || printf '%s:1:%s\n' "$tenant" "$(openssl rand -hex 32)" >"task_key_$tenant"
  done
  cat task_key_* >task_keys.new
  mv -f task_keys.new task_keys
fi

# For encrypted state and for a gateway whose /metrics asks for a key: compose.yaml has the lines that mount them.
have state_key || openssl rand -base64 32 >state_key
password gateway_metrics_key

password audit_key
password audit_worker_key

# One API key for the default tenant. The gateway gets its digest; more keys: langgraph-producer new-key
have gateway_api_key || printf 'lgrq_%s\n' "$(openssl rand -hex 32)" >gateway_api_key
have gateway_keys || printf 'default:%s\n' "$(tr -d '\n' <gateway_api_key | openssl dgst -sha256 | sed 's/.* //')" >gateway_keys

have openai_api_key || printf '%s\n' "${OPENAI_API_KEY:-offline}" >openai_api_key

chmod 444 ./*
chmod 400 ca.key
echo "secrets in $(pwd): keep them out of version control"
