#!/bin/sh
# Makes posthouse-VERSION-ARCH.img, the disk, and .raucb, the update, of Buildroot's rootfs.squashfs.
# $1: the folder of images. Buildroot sets BR2_CONFIG, BUILD_DIR and TARGET_DIR.
set -eu

images=$1
here=$(cd "$(dirname "$0")" && pwd)
release=$TARGET_DIR/usr/lib/posthouse/release
arch=$(sed -n 's/^compatible=posthouse-//p' "$release")
version=$(sed -n 's/^version=//p' "$release")
key=$(sed -n 's/^BR2_PACKAGE_POSTHOUSE_UPDATE_KEY="\(.*\)"/\1/p' "$BR2_CONFIG" \
    | sed "s|\$(BR2_EXTERNAL_POSTHOUSE_PATH)|$here/../..|")
work=$images/posthouse-work
name=$images/posthouse-$version-$arch

[ "$(stat -c %s "$images/rootfs.squashfs")" -lt $((256 * 1048576)) ] || { echo "post-image: a slot has 256 MiB" >&2; exit 1; }
rm -rf "$work"
mkdir "$work"
ln "$images/rootfs.squashfs" "$work/slot.squashfs"
cp "$release" "$work/release"
case $arch in
    x86_64) platforms='i386-pc x86_64-efi' ;;
    aarch64) platforms=arm64-efi ;;
    *) echo "post-image: no GRUB is known for $arch" >&2; exit 1 ;;
esac
set --
for platform in $platforms; do
    for modules in "$BUILD_DIR"/grub2-*/build-"$platform"/grub-core; do set -- "$@" "$platform=$modules"; done
done
"$here/make-disk" "$work" "$@"
"$here/make-update" "$work" "$key/key.pem" "$key/certificate.pem"
mv "$work/disk.img" "$name.img"
mv "$work/update.raucb" "$name.raucb"
rm -rf "$work"
