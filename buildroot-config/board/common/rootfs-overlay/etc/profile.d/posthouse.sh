# shellcheck shell=sh
# Debian's prompt instead of Buildroot's "# ": which board this is, and where one is.
[ -z "${PS1-}" ] || export PS1='\u@\h:\w\$ '
