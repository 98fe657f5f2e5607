set -eu
umask 022
# Another root than this machine's, for tests and images: nothing is started there.
root=${WEFT_ROOT:-}
# Where weftd, weft and weft-shim are.
programs=${WEFT_PROGRAMS:-.}
data=$root/var/lib/weft
bin=$root/usr/local/bin
units=$root/etc/systemd/system

step() { printf '%-9s %-8s %s\n' "$1" "$2" "$3"; }
failed() { step "$1" failed "$2"; exit 1; }

# --- machine
[ "$(uname -s)" = Linux ] || failed machine "not Linux"
[ "$(id -u)" = 0 ] || failed machine "run this as root"
[ -n "$root" ] || [ -d /run/systemd/system ] || failed machine "systemd does not run here"
step machine ok "$(uname -m)"

# --- user: its number must never change, containers' storage belongs to it
id_in() {
  if [ -n "$root" ]; then
    sed -n 's/^weft:[^:]*:\([0-9]*\):.*/\1/p; s/^weft:[^:]*:\([0-9]*\)$/\1/p' "$root/etc/$1"
  else
    getent "$1" weft | cut -d: -f3 || :
  fi
}
made=ok
gid=$(id_in group)
if [ -z "$gid" ]; then
  groupadd ${root:+--prefix "$root"} --system --gid "$uid" weft ||
    failed user "the group weft, number $uid, could not be made: choose another with --uid"
  gid=$uid made=changed
fi
is=$(id_in passwd)
if [ -z "$is" ]; then
  useradd ${root:+--prefix "$root"} --system --uid "$uid" --gid "$gid" --no-create-home \
    --home-dir /var/lib/weft --shell /usr/sbin/nologin weft ||
    failed user "the user weft, number $uid, could not be made: choose another with --uid"
  made=changed
elif [ "$is" != "$uid" ]; then
  failed user "weft is number $is here and must stay so: repeat with --uid $is"
fi
if [ "$podman" = 1 ]; then
  for file in subuid subgid; do
    [ -e "$root/etc/$file" ] || : >"$root/etc/$file"
    if ! grep -q '^weft:' "$root/etc/$file"; then
      first=$(awk -F: 'BEGIN { m = 100000 } { e = $2 + $3; if (e > m) m = e } END { print m }' \
        "$root/etc/$file")
      printf 'weft:%s:65536\n' "$first" >>"$root/etc/$file"
      made=changed
    fi
  done
  if [ ! -e "$root/var/lib/systemd/linger/weft" ]; then
    if [ -n "$root" ]; then
      mkdir -p "$root/var/lib/systemd/linger" && : >"$root/var/lib/systemd/linger/weft"
    else
      loginctl enable-linger weft || failed user "loginctl enable-linger weft failed"
    fi
    made=changed
  fi
fi
step user "$made" "weft, $uid:$gid"

# --- engine
if [ "$podman" = 1 ]; then
  if [ -n "$root" ] || command -v podman >/dev/null; then
    step engine ok "podman"
  else
    step engine missing "podman is not installed: containers wait until it is"
  fi
fi

# --- programs
restart=
new=
for program in weftd weft weft-shim; do
  from=$programs/$program
  want=$(printf '%s\n' "$sums" | sed -n "s/^$program //p")
  if [ ! -f "$from" ]; then
    [ -x "$bin/$program" ] || failed programs \
      "$program is neither in $programs nor in $bin: put it beside this script, or set WEFT_PROGRAMS"
  elif [ -n "$want" ] && [ "$(sha256sum <"$from" | cut -d' ' -f1)" != "$want" ]; then
    failed programs "$from is not whole: repeat"
  elif ! cmp -s "$from" "$bin/$program"; then
    # In one step: a daemon that runs keeps the file it has.
    mkdir -p "$bin" && cp "$from" "$bin/$program.new" && chmod 0755 "$bin/$program.new" &&
      mv "$bin/$program.new" "$bin/$program" || failed programs "$bin/$program cannot be written"
    new="$new $program" restart=1
  fi
done
if [ -n "$new" ]; then step programs changed "$bin:$new"; else step programs ok "$bin"; fi

# --- join
joined=ok
if [ -e "$data/node.json" ]; then
  is=$(sed -n 's/^ *"name": *"\([^"]*\)".*/\1/p' "$data/node.json" | head -n 1)
  [ "$is" = "$name" ] || failed join "$data belongs to node $is"
else
  [ -n "$token" ] || failed join "there is no token in this: repeat weft node provision"
  mkdir -p "${data%/*}"
  # Not among its arguments, which every user of the machine can read.
  printf '%s\n' "$token" | "$bin/weft" join - --name "$name" --data "$data" --bind "$bind" \
    ${advertise:+--advertise "$advertise"} --gateway "$gateway" >/dev/null ||
    failed join "weft join failed, see above"
  joined=changed
fi
# What joining made is given away, node.json last: a later run sees by it whether all is. Never
# more: containers have files there that belong to others.
if [ "$(stat -c %u "$data/node.json")" != "$uid" ]; then
  find "$data" ! -path "$data/node.json" -exec chown -h "$uid:$gid" {} + &&
    chown "$uid:$gid" "$data/node.json" || failed join "$data cannot be given to weft"
  joined=changed
fi
step join "$joined" "$name, in $data"

# --- unit
if unit_text | cmp -s - "$units/$unit"; then
  step unit ok "$units/$unit"
else
  mkdir -p "$units" && unit_text >"$units/$unit" || failed unit "$units/$unit cannot be written"
  restart=1
  [ -n "$root" ] || systemctl daemon-reload
  step unit changed "$units/$unit"
fi

# --- enable
# Also what an earlier run, that was broken off, put there: what runs is another program then.
if [ -z "$root" ]; then
  systemctl daemon-reload || failed enable "systemctl daemon-reload failed"
  pid=$(systemctl show --property MainPID --value "$unit" 2>/dev/null || :)
  if [ "${pid:-0}" != 0 ] && [ "$(readlink "/proc/$pid/exe" 2>/dev/null || :)" != "$bin/weftd" ]; then
    restart=1
  fi
fi
enabled=ok
if [ -n "$root" ]; then
  rm -f "$units/multi-user.target.wants/$other"
  if [ ! -L "$units/multi-user.target.wants/$unit" ]; then
    mkdir -p "$units/multi-user.target.wants"
    ln -s "/etc/systemd/system/$unit" "$units/multi-user.target.wants/$unit"
    enabled=changed
  fi
  step enable "$enabled" "$unit"
  step daemon ok "not started: $root is not this machine's root"
  exit 0
fi
if systemctl is-enabled --quiet "$other" 2>/dev/null; then
  systemctl disable --quiet --now "$other" || failed enable "$other could not be disabled"
  enabled=changed
fi
if ! systemctl is-enabled --quiet "$unit" 2>/dev/null; then
  systemctl enable --quiet "$unit" || failed enable "systemctl enable $unit failed"
  enabled=changed
fi
step enable "$enabled" "$unit"

# --- daemon: its components run on while it is started again
ran=ok
if ! systemctl is-active --quiet "$unit"; then
  systemctl start --no-block "$unit" && ran=changed || failed daemon "systemctl start $unit failed"
elif [ -n "$restart" ]; then
  systemctl restart --no-block "$unit" && ran=changed ||
    failed daemon "systemctl restart $unit failed"
fi
waited=0
while [ "$waited" -lt 30 ]; do
  if systemctl is-active --quiet "$unit"; then
    step daemon "$ran" "$unit runs"
    exit 0
  fi
  sleep 1
  waited=$((waited + 1))
done
failed daemon "$unit is not ready after 30 s: systemctl status $unit; journalctl -u $unit"
