#!/bin/sh
# Makes the context of the Containerfile beside it: the programs, and the libraries they need as
# this machine has them.
#
#   context.sh <directory with weftd, weft and weft-shim> <context, made anew>
set -eu
umask 022

if [ $# != 2 ] || [ -z "$2" ]; then
  echo "usage: context.sh <programs> <context>" >&2
  exit 2
fi
programs=$1
root=$2/root
if [ -e "$2" ] && [ -n "$(ls -A "$2")" ] && [ ! -d "$root" ]; then
  echo "$2 is not empty, and not a context" >&2
  exit 1
fi
rm -rf "$root" "$2/data"
mkdir -p "$root/usr/local/bin" "$root/etc" "$root/tmp" "$2/data"
chmod 1777 "$root/tmp"
chmod 0700 "$2/data"

for program in weftd weft weft-shim; do
  if [ ! -f "$programs/$program" ]; then
    echo "$program is not in $programs: build it first" >&2
    exit 1
  fi
  to=$root/usr/local/bin/$program
  # Names of functions stay, for backtraces; lines of the source do not.
  if ! strip --strip-debug -o "$to" "$programs/$program" 2>/dev/null; then
    cp "$programs/$program" "$to"
  fi
  chmod 0755 "$to"
  # A static program needs none, and ldd says so by failing.
  libraries=$(ldd "$programs/$program" 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }') || libraries=
  for library in $libraries; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
done

printf 'root:x:0:0::/:/nologin\nweft:x:743:743::/var/lib/weft:/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nweft:x:743:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
