"""What steers a frozen U-Net beside its text: edges through a ControlNet, a picture through an IP-Adapter."""
