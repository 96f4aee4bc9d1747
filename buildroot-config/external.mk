# What the defconfigs are stored for and were checked with (docs/boards.md). A stored defconfig leaves out what is Buildroot's
# default: so what must not change unseen when Buildroot changes is pinned here, and said when it is another.
define POSTHOUSE_PIN
ifneq ($$(call qstrip,$$($(1))),$(2))
$$(warning posthouse: $(1) is $$($(1)); checked with $(2). See buildroot-config/README.md, "A newer Buildroot")
endif
endef

$(eval $(call POSTHOUSE_PIN,BR2_VERSION,2026.05.1))
ifeq ($(BR2_PACKAGE_POSTHOUSE),y)
$(eval $(call POSTHOUSE_PIN,BR2_TOOLCHAIN_BUILDROOT_LIBC,glibc))
$(eval $(call POSTHOUSE_PIN,BR2_GCC_VERSION,14.4.0))
$(eval $(call POSTHOUSE_PIN,BR2_BINUTILS_VERSION,2.45.1))
$(eval $(call POSTHOUSE_PIN,BR2_LINUX_KERNEL_VERSION,6.12.92))
endif

include $(sort $(wildcard $(BR2_EXTERNAL_POSTHOUSE_PATH)/package/*/*.mk))
