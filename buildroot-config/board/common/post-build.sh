#!/bin/sh
# Buildroot's last step before the root is packed: what the Debian builder does besides laying over rootfs-overlay/ and systemd/.
# $1: the root. Buildroot sets BR2_CONFIG, BINARIES_DIR and HOST_DIR.
set -eu

root=$1
checkout=$(cd "$(dirname "$0")/../../.." && pwd)
arch=$(sed -n 's/^BR2_ARCH="\(.*\)"/\1/p' "$BR2_CONFIG")

for kernel in bzImage Image; do
    [ ! -e "$BINARIES_DIR/$kernel" ] || install -D -m 644 "$BINARIES_DIR/$kernel" "$root/boot/vmlinuz"
done
[ -e "$root/boot/vmlinuz" ] || { echo "post-build: no kernel in $BINARIES_DIR" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$checkout/pyproject.toml")
time=$(git -C "$checkout" log -1 --format=%ct 2>/dev/null || echo "${SOURCE_DATE_EPOCH:?posthouse lies in no git checkout}")
build=$(date -u -d "@$time" +%Y%m%d%H%M%S)
printf 'compatible=posthouse-%s\nversion=%s\nbuild=%s\n' "$arch" "$version" "$build" >"$root/usr/lib/posthouse/release"
sed -i "s/^compatible=.*/compatible=posthouse-$arch/" "$root/etc/rauc/system.conf"

# /var is empty at each start: tmpfiles.d links the journal's catalog.
"$HOST_DIR/bin/journalctl" --root="$root" --update-catalog
mv "$root/var/lib/systemd/catalog/database" "$root/usr/lib/posthouse/catalog"

# Of GRUB a running board needs one program; of the Debian image's initramfs nothing.
find "$root/usr/bin" "$root/usr/sbin/" -name 'grub-*' ! -name grub-editenv -exec rm -f {} +
rm -rf "$root/usr/lib/grub" "$root/usr/share/grub" "$root/etc/grub.d" "$root/boot/grub" "$root/usr/lib/posthouse/initramfs"
