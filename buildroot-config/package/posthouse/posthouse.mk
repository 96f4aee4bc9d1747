################################################################################
#
# posthouse
#
################################################################################

POSTHOUSE_CHECKOUT = $(realpath $(BR2_EXTERNAL_POSTHOUSE_PATH)/..)
POSTHOUSE_SITE = $(POSTHOUSE_CHECKOUT)
POSTHOUSE_SITE_METHOD = local
POSTHOUSE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(POSTHOUSE_CHECKOUT)/pyproject.toml)
POSTHOUSE_LICENSE = Apache-2.0
POSTHOUSE_LICENSE_FILES = LICENSE
POSTHOUSE_SETUP_TYPE = setuptools
POSTHOUSE_DEPENDENCIES = host-openssl

# What the package is made of, and nothing else of the checkout.
POSTHOUSE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude=__pycache__ \
	--include=/appliance/*** \
	--include=/systemd/*** \
	--include=/pyproject.toml \
	--include=/README.md \
	--include=/LICENSE \
	--exclude=*

# Those of rootfs-overlay/usr/lib/sysusers.d/posthouse.conf; chronyd runs as
# Debian's does, so that the data partition serves either system.
define POSTHOUSE_USERS
	_chrony -1 _chrony -1 * /var/lib/chrony - - chronyd
	posthouse 470 posthouse 470 * /var/lib/posthouse - dialout,_chrony Posthouse
endef

# Where etc/fstab mounts, and what the folders of the data partition look like
# (rootfs-overlay/usr/lib/tmpfiles.d/posthouse.conf).
define POSTHOUSE_PERMISSIONS
	/data d 755 root root - - - - -
	/efi d 755 root root - - - - -
	/etc/posthouse d 750 root posthouse - - - - -
endef

define POSTHOUSE_INSTALL_INIT_SYSTEMD
	$(INSTALL) -d $(TARGET_DIR)/usr/lib/systemd/system $(TARGET_DIR)/usr/lib/systemd/system-preset
	$(INSTALL) -m 0644 -t $(TARGET_DIR)/usr/lib/systemd/system \
		$(@D)/systemd/*.service $(@D)/systemd/*.socket $(@D)/systemd/*.target
	$(INSTALL) -m 0644 -t $(TARGET_DIR)/usr/lib/systemd/system-preset $(@D)/systemd/*.preset
	$(INSTALL) -m 0644 -D -t $(TARGET_DIR)/usr/share/polkit-1/rules.d $(@D)/systemd/*.rules
	$(INSTALL) -m 0644 -D -t $(TARGET_DIR)/usr/lib/systemd/catalog $(@D)/systemd/*.catalog
endef

POSTHOUSE_UPDATE_KEY = $(call qstrip,$(BR2_PACKAGE_POSTHOUSE_UPDATE_KEY))

define POSTHOUSE_INSTALL_CERTIFICATE
	PATH=$(BR_PATH) $(BR2_EXTERNAL_POSTHOUSE_PATH)/board/common/make-key $(POSTHOUSE_UPDATE_KEY)
	$(INSTALL) -m 0644 -D $(POSTHOUSE_UPDATE_KEY)/certificate.pem \
		$(TARGET_DIR)/usr/lib/posthouse/update.cert.pem
endef
POSTHOUSE_POST_INSTALL_TARGET_HOOKS += POSTHOUSE_INSTALL_CERTIFICATE

$(eval $(python-package))
