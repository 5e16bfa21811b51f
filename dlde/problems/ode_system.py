"""Systems of ordinary differential equations behind one interface: a vector field and what is drawn for it."""
